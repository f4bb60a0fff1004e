//! `strftime` for templates: UTC and English, without a database of time zones.

use minijinja::{Error, ErrorKind};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |passed| {
            i64::try_from(passed.as_secs()).unwrap_or(i64::MAX)
        })
}

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// `strftime` in UTC and English, for the directives that templates use.
pub(super) fn strftime(format: &str, unix_seconds: i64) -> Result<String, Error> {
    let (days, seconds) = (
        unix_seconds.div_euclid(86_400),
        unix_seconds.rem_euclid(86_400),
    );
    // Days to a date, by 400-year eras that begin in March:
    // <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    // March is the 60th day of a year, the 61st of a leap year.
    let of_year = match month > 2 {
        true => day_of_year + 60 + i64::from(is_leap),
        false => day_of_year - 305,
    };
    let day_name = DAYS[(days + 4).rem_euclid(7) as usize];
    let month_name = MONTHS[(month - 1) as usize];
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let twelve = (hour + 11) % 12 + 1;
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(c) = characters.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut directive = characters.next();
        let is_bare = directive == Some('-');
        if is_bare {
            directive = characters.next();
        }
        let number = |n: i64, width: usize| match is_bare {
            true => n.to_string(),
            false => format!("{n:0width$}"),
        };
        let part = match directive {
            Some('Y') => number(year, 4),
            Some('y') => number(year.rem_euclid(100), 2),
            Some('m') => number(month, 2),
            Some('d') => number(day, 2),
            Some('e') => format!("{day:2}"),
            Some('j') => number(of_year, 3),
            Some('H') => number(hour, 2),
            Some('I') => number(twelve, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name[..3].to_owned(),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('F') => format!("{year:04}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('%') => "%".to_owned(),
            other => {
                let message = format!("strftime_now: the directive {other:?}");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        };
        text.push_str(&part);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From Python: datetime.fromtimestamp(n, timezone.utc).strftime(...).
        let format = "%d %b %Y|%A %-d %B|%j|%I:%M %p|%T|%%";
        for (seconds, written) in [
            (0, "01 Jan 1970|Thursday 1 January|001|12:00 AM|00:00:00|%"),
            (
                951_782_400,
                "29 Feb 2000|Tuesday 29 February|060|12:00 AM|00:00:00|%",
            ),
            (
                1_735_689_599,
                "31 Dec 2024|Tuesday 31 December|366|11:59 PM|23:59:59|%",
            ),
            (
                -1,
                "31 Dec 1969|Wednesday 31 December|365|11:59 PM|23:59:59|%",
            ),
        ] {
            assert_eq!(strftime(format, seconds).unwrap(), written);
        }
        assert!(strftime("%Q", 0).is_err());
    }
}
