//! How to reach an artifact store beyond its URL.
//!
//! Filled by the configuration, or from `AWS_*` variables by [`StoreOptions::from_env`]: the one
//! place of this module that looks at the environment. Opens nothing. Serialized only to be handed
//! to an attempt's own process, whose environment does not hold them.

use std::fmt;
use std::time::Duration;

use object_store::aws::AmazonS3ConfigKey;
use serde::{Deserialize, Serialize};

/// How to reach a store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreOptions {
    /// For `s3://` URLs.
    pub s3: S3Options,
    /// How long one request may take; an upload of a large model is one request.
    pub request_timeout: Duration,
    /// How long a connection may take.
    pub connect_timeout: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            s3: S3Options::default(),
            // 1 GB at 10 MB/s fits; a black hole is left within the attempt's lease budget.
            request_timeout: Duration::from_secs(120),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

impl StoreOptions {
    /// The defaults with what the process's `AWS_*` variables say: `AWS_ENDPOINT_URL` (or
    /// `AWS_ENDPOINT`), `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    /// `AWS_SESSION_TOKEN`, `AWS_ALLOW_HTTP`, and the variables of web identities and of container
    /// credentials that AWS sets by itself.
    pub fn from_env() -> Self {
        Self { s3: S3Options::from_variables(std::env::vars_os()), ..Self::default() }
    }
}

/// How to reach S3 or what speaks it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Options {
    /// `https://host[:port]` of a store that is not AWS; `None` = AWS in `region`.
    pub endpoint: Option<String>,
    /// Default `us-east-1`, which stores beside AWS accept.
    pub region: Option<String>,
    /// Whether plain HTTP will do. An endpoint on loopback needs no leave.
    pub allow_http: bool,
    /// Fixed keys; `None` = what the platform offers (instance role, web identity).
    pub credentials: Option<S3Credentials>,
    /// Further settings of the platform, as found in the environment.
    pub platform: Vec<(AmazonS3ConfigKey, String)>,
}

/// A fixed pair of keys.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Credentials {
    /// Public half.
    pub access_key_id: String,
    /// Secret half; never printed.
    pub secret_access_key: String,
    /// For temporary keys; never printed.
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

impl S3Options {
    /// Reads `AWS_*` among `variables`; others, and what is not UTF-8, are passed over.
    pub fn from_variables<T: Into<std::ffi::OsString>>(variables: impl IntoIterator<Item = (T, T)>) -> Self {
        let mut options = Self::default();
        let (mut id, mut secret, mut token) = (None, None, None);
        for (name, value) in variables {
            let (Ok(name), Ok(value)) = (name.into().into_string(), value.into().into_string()) else { continue };
            match name.as_str() {
                _ if value.is_empty() => {}
                "AWS_ENDPOINT_URL" | "AWS_ENDPOINT" | "AWS_ENDPOINT_URL_S3" => options.endpoint = Some(value),
                "AWS_REGION" => options.region = Some(value),
                // AWS_REGION wins over it, whichever comes first.
                "AWS_DEFAULT_REGION" => options.region = options.region.or(Some(value)),
                "AWS_ALLOW_HTTP" => options.allow_http = matches!(value.as_str(), "true" | "1" | "yes"),
                "AWS_ACCESS_KEY_ID" => id = Some(value),
                "AWS_SECRET_ACCESS_KEY" => secret = Some(value),
                "AWS_SESSION_TOKEN" => token = Some(value),
                _ => options.platform.extend(platform_setting(&name).map(|key| (key, value))),
            }
        }
        options.credentials = id.zip(secret).map(|(access_key_id, secret_access_key)| S3Credentials {
            access_key_id,
            secret_access_key,
            session_token: token,
        });
        options
    }

    /// Whether plain HTTP is allowed to the endpoint.
    pub(super) fn http_allowed(&self) -> bool {
        let loopback = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
        let is_loopback = |endpoint: &String| {
            loopback.iter().any(|host| {
                endpoint.strip_prefix(host).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
            })
        };
        self.allow_http || self.endpoint.as_ref().is_some_and(is_loopback)
    }
}

/// What AWS's platforms set for the processes that they start; nothing that changes how we write.
fn platform_setting(name: &str) -> Option<AmazonS3ConfigKey> {
    const KNOWN: [&str; 6] = [
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_ROLE_ARN",
        "AWS_ROLE_SESSION_NAME",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    ];
    KNOWN.contains(&name).then(|| name.to_ascii_lowercase().parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_become_options_and_secrets_stay_unprinted() {
        let options = S3Options::from_variables([
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000"),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_DEFAULT_REGION", "us-west-2"),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "hush"),
            ("AWS_SESSION_TOKEN", "token"),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/x"),
            ("AWS_CONDITIONAL_PUT", "disabled"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(options.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!(options.region.as_deref(), Some("eu-west-1"));
        assert!(options.http_allowed(), "loopback needs no leave");
        assert_eq!(options.platform.len(), 1, "create-only can not be switched off: {:?}", options.platform);
        let printed = format!("{options:?}");
        assert!(!printed.contains("hush") && !printed.contains("\"token\""), "{printed}");
    }

    #[test]
    fn plain_http_elsewhere_needs_leave() {
        for endpoint in ["http://minio:9000", "http://127.0.0.1.example.com", "http://localhost.evil"] {
            let options = S3Options { endpoint: Some(endpoint.to_owned()), ..S3Options::default() };
            assert!(!options.http_allowed(), "{endpoint}");
            assert!(S3Options { allow_http: true, ..options }.http_allowed());
        }
    }
}
