//! How object stores are reached: addresses and credentials from the variables that their own tools
//! read. Without credentials requests are anonymous, which public buckets answer.

/// A text that opens a door and is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the server that it is for.
    pub(super) fn shown_to_server(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// What signs requests to S3.
#[derive(Debug, Clone)]
pub struct Keys {
    /// `AWS_ACCESS_KEY_ID`
    pub id: String,
    /// `AWS_SECRET_ACCESS_KEY`
    pub secret: Secret,
    /// `AWS_SESSION_TOKEN`, of keys that are good for a while.
    pub session: Option<Secret>,
}

/// How to reach object stores.
#[derive(Debug, Clone)]
pub struct BucketOptions {
    /// Address of a store that speaks S3 (`AWS_ENDPOINT_URL_S3`, else `AWS_ENDPOINT_URL`); Amazon's
    /// where there is none.
    pub s3_endpoint: Option<String>,
    /// Region of the buckets (`AWS_REGION`, else `AWS_DEFAULT_REGION`).
    pub s3_region: String,
    /// Keys for S3; requests are not signed without them, or with `AWS_SKIP_SIGNATURE`.
    pub s3_keys: Option<Keys>,
    /// Address of Google's store (`STORAGE_EMULATOR_HOST` names another).
    pub gs_endpoint: String,
    /// Access token for it (`GOOGLE_OAUTH_ACCESS_TOKEN`, else `CLOUDSDK_AUTH_ACCESS_TOKEN`).
    pub gs_token: Option<Secret>,
    /// Name of the account at Azure (`AZURE_STORAGE_ACCOUNT`, else `AZURE_STORAGE_ACCOUNT_NAME`).
    pub az_account: Option<String>,
    /// Address of the account, where it is not Azure's own (`AZURE_STORAGE_ENDPOINT`).
    pub az_endpoint: Option<String>,
    /// Shared access signature (`AZURE_STORAGE_SAS_TOKEN`): the query that opens a container.
    pub az_sas: Option<Secret>,
    /// Access token for Azure (`AZURE_STORAGE_TOKEN`).
    pub az_token: Option<Secret>,
}

impl BucketOptions {
    /// From variables that `lookup` knows.
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&str]| {
            let value = names.iter().find_map(|name| lookup(name))?;
            Some(value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let address =
            |names: &[&str]| first(names).map(|text| text.trim_end_matches('/').to_owned());
        let secret = |names: &[&str]| first(names).map(Secret);
        let keys = || {
            Some(Keys {
                id: first(&["AWS_ACCESS_KEY_ID"])?,
                secret: secret(&["AWS_SECRET_ACCESS_KEY"])?,
                session: secret(&["AWS_SESSION_TOKEN"]),
            })
        };
        let is_anonymous = first(&["AWS_SKIP_SIGNATURE"])
            .is_some_and(|value| ["1", "true"].contains(&value.to_ascii_lowercase().as_str()));
        let region = first(&["AWS_REGION", "AWS_DEFAULT_REGION"]);
        let gs_endpoint = address(&["STORAGE_EMULATOR_HOST"]).map(|text| {
            match text.contains("://") {
                true => text,
                // The emulators' own clients read a bare host so.
                false => format!("http://{text}"),
            }
        });
        Self {
            s3_endpoint: address(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]),
            s3_region: region.unwrap_or_else(|| "us-east-1".to_owned()),
            s3_keys: keys().filter(|_| !is_anonymous),
            gs_endpoint: gs_endpoint.unwrap_or_else(|| "https://storage.googleapis.com".to_owned()),
            gs_token: secret(&["GOOGLE_OAUTH_ACCESS_TOKEN", "CLOUDSDK_AUTH_ACCESS_TOKEN"]),
            az_account: first(&["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"]),
            az_endpoint: address(&["AZURE_STORAGE_ENDPOINT"]),
            az_sas: first(&["AZURE_STORAGE_SAS_TOKEN"])
                .map(|text| Secret(text.trim_start_matches('?').to_owned())),
            az_token: secret(&["AZURE_STORAGE_TOKEN"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> BucketOptions {
        let known = |name: &str| variables.iter().find(|(n, _)| *n == name);
        BucketOptions::from_lookup(&|name| known(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn variables_are_read_and_secrets_are_not_printed() {
        let keys = [
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "hidden-1"),
            ("AWS_SESSION_TOKEN", "hidden-2"),
            ("AWS_DEFAULT_REGION", "eu-west-1"),
            ("AZURE_STORAGE_SAS_TOKEN", "?sig=hidden-3"),
            ("GOOGLE_OAUTH_ACCESS_TOKEN", "hidden-4"),
            ("AZURE_STORAGE_TOKEN", "hidden-5"),
            ("STORAGE_EMULATOR_HOST", "localhost:9000/"),
        ];
        let options = of(&keys);
        assert_eq!(options.s3_region, "eu-west-1");
        assert_eq!(options.gs_endpoint, "http://localhost:9000");
        assert_eq!(options.az_sas, Some(Secret::new("sig=hidden-3")));
        let shown = format!("{options:?}");
        assert!(shown.contains("id") && !shown.contains("hidden"), "{shown}");
        let mut anonymous = keys.to_vec();
        anonymous.push(("AWS_SKIP_SIGNATURE", "true"));
        assert!(of(&anonymous).s3_keys.is_none());
        assert!(of(&[("AWS_ACCESS_KEY_ID", "id")]).s3_keys.is_none());
        let none = of(&[]);
        assert_eq!(none.s3_region, "us-east-1");
        assert_eq!(none.gs_endpoint, "https://storage.googleapis.com");
    }
}
