//! AWS Signature Version 4 of a request without a body, in headers.
//!
//! Signed are method, path, query, host, time and session; `Range` and `If-Match` are not, so that one
//! signature serves any part of an object. Verified by the examples that AWS publishes.

use super::super::digest;
use super::access::Keys;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use ring::hmac;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// A text as it stands in a canonical path or query: all but the unreserved characters escaped.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => out.push(char::from(byte)),
            // Writing to a string cannot fail.
            false => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

/// A time as `20130524T000000Z`, in the proleptic Gregorian calendar.
fn stamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (since / 86_400, since % 86_400);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    // Years that begin in March, counted in eras of 400 from the year 0 (H. Hinnant's days_from_civil).
    let z = days + 719_468;
    let of_era = z % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = match from_march < 10 {
        true => from_march + 3,
        false => from_march - 9,
    };
    let year = z / 146_097 * 400 + year_of_era + u64::from(month <= 2);
    let second = second % 60;
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

/// The headers that sign a `GET` of an address whose path and query are canonical; `None` if a key holds
/// what no header can.
pub(super) fn headers(keys: &Keys, region: &str, url: &Url, now: SystemTime) -> Option<HeaderMap> {
    let stamp = stamp(now);
    let day = stamp.get(..8).unwrap_or_default();
    let host = match (url.host_str()?, url.port()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    };
    let nothing = digest::of_bytes(b"");
    // In the order of their names, as the signature wants them.
    let mut signed = vec![
        ("host", host.as_str()),
        ("x-amz-content-sha256", &nothing),
        ("x-amz-date", &stamp),
    ];
    if let Some(session) = &keys.session {
        signed.push(("x-amz-security-token", session.shown_to_server()));
    }
    let names: Vec<&str> = signed.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let mut canonical = format!("GET\n{}\n{}\n", url.path(), url.query().unwrap_or_default());
    for (name, value) in &signed {
        // Writing to a string cannot fail.
        let _ = writeln!(canonical, "{name}:{}", value.trim());
    }
    let _ = write!(canonical, "\n{names}\n{nothing}");
    let scope = format!("{day}/{region}/s3/aws4_request");
    let canonical = digest::of_bytes(canonical.as_bytes());
    let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{canonical}");
    let secret = format!("AWS4{}", keys.secret.shown_to_server());
    let mut key = mac(secret.as_bytes(), day);
    for part in [region, "s3", "aws4_request"] {
        key = mac(key.as_ref(), part);
    }
    let signature = digest::hex(mac(key.as_ref(), &to_sign).as_ref());
    let id = &keys.id;
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
    );
    let mut headers = HeaderMap::new();
    for (name, value) in signed.into_iter().skip(1) {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_bytes(name.as_bytes()).ok()?, value);
    }
    let mut authorization = HeaderValue::from_str(&authorization).ok()?;
    authorization.set_sensitive(true);
    headers.insert(AUTHORIZATION, authorization);
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::super::access::Secret;
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn signature(session: Option<&str>, region: &str, url: &str) -> String {
        let keys = Keys {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            session: session.map(Secret::new),
        };
        // 2013-05-24.
        let headers = headers(&keys, region, &Url::parse(url).unwrap(), at(1_369_353_600));
        let text = headers.unwrap()[AUTHORIZATION].to_str().unwrap().to_owned();
        text.rsplit('=').next().unwrap().to_owned()
    }

    #[test]
    fn a_signature_is_that_of_the_published_examples() {
        // "Signature Calculations for the Authorization Header", Amazon S3 API Reference: GET bucket
        // lifecycle, and GET bucket (list objects).
        let of = |query: &str| {
            let url = format!("https://examplebucket.s3.amazonaws.com/{query}");
            signature(None, "us-east-1", &url)
        };
        assert_eq!(
            of("?lifecycle="),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        assert_eq!(
            of("?max-keys=2&prefix=J"),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    #[test]
    fn a_signature_with_a_session_and_escapes_is_that_of_an_independent_client() {
        // tests/scripts/make_s3_signatures.py
        let of = |address: &str| {
            let url = format!("http://localhost:9000/bucket{address}");
            signature(Some("session/token=="), "eu-west-1", &url)
        };
        assert_eq!(
            of(&format!("/{}/{}", escaped("a b"), escaped("m+\u{e9}.gguf"))),
            "be8162b5b3f28118a1061ae357904950ef60b5b25ec05ef8a95ce6f4fe329f6d"
        );
        let query = format!("list-type=2&prefix={}", escaped("a b/"));
        assert_eq!(
            of(&format!("?continuation-token={}&{query}", escaped("a/b="))),
            "cddd3f934ff0e69fca1784090d06a00f9bac35fb410fef2f67f0be1ec5c638f8"
        );
    }

    #[test]
    fn a_time_is_written_by_the_calendar() {
        for (seconds, written) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (951_868_800, "20000301T000000Z"),
            (1_369_353_600, "20130524T000000Z"),
            (1_735_689_599, "20241231T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(stamp(at(seconds)), written);
        }
    }

    #[test]
    fn all_but_unreserved_characters_are_escaped() {
        assert_eq!(escaped("a-._~Z9"), "a-._~Z9");
        assert_eq!(escaped("a b/é+%"), "a%20b%2F%C3%A9%2B%25");
    }
}
