//! A store on S3 or what speaks it.
//!
//! Called by [`super::ArtifactStore`] only. Retries of single requests are `object_store`'s; the
//! meaning of "already exists" is the caller's.
//!
//! An object is put with one request and `If-None-Match: *`. A multipart upload would need less
//! memory, but `object_store` can not make its completion conditional, and create-only is what
//! makes a retried PUT safe; so an upload holds its file in memory once. Files of tasks are far
//! below S3's limit of 5 GiB for one request, which the server enforces.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use crate::artifact::key::parse_key;
use crate::artifact::{ArtifactError, StoreOptions};

/// The region that stores beside AWS expect when none is set.
const DEFAULT_REGION: &str = "us-east-1";

/// Opens `s3://bucket[/prefix]`; returns the store and the URL without a final slash.
pub(super) fn open(url: &str, options: &StoreOptions) -> Result<(Arc<dyn ObjectStore>, String), ArtifactError> {
    let refused = |detail: String| ArtifactError::Url { url: url.to_owned(), detail };
    let rest = url.strip_prefix("s3://").unwrap_or(url).trim_end_matches('/');
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() || bucket.contains(['@', '?', '#']) {
        return Err(refused("use s3://bucket or s3://bucket/prefix".to_owned()));
    }
    let prefix = match prefix {
        "" => Path::ROOT,
        prefix => parse_key(prefix).map_err(|_| refused(format!("the prefix {prefix:?} is no plain path")))?,
    };
    let store = builder(bucket, options).build().map_err(|error| refused(error.to_string()))?;
    Ok((Arc::new(PrefixStore::new(store, prefix)), format!("s3://{rest}")))
}

fn builder(bucket: &str, options: &StoreOptions) -> AmazonS3Builder {
    let s3 = &options.s3;
    let client = ClientOptions::new()
        .with_timeout(options.request_timeout)
        .with_connect_timeout(options.connect_timeout)
        .with_allow_http(s3.http_allowed());
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(s3.region.as_deref().unwrap_or(DEFAULT_REGION))
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(retries())
        .with_client_options(client);
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(keys) = &s3.credentials {
        builder = builder.with_access_key_id(&keys.access_key_id).with_secret_access_key(&keys.secret_access_key);
        if let Some(token) = &keys.session_token {
            builder = builder.with_config(AmazonS3ConfigKey::Token, token);
        }
    }
    for (key, value) in &s3.platform {
        builder = builder.with_config(*key, value);
    }
    builder
}

/// Short: an attempt that waits for its store holds a slot, and the task's own policy retries too.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.,
        },
        max_retries: 4,
        retry_timeout: Duration::from_secs(30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_bucket_and_perhaps_a_prefix() {
        let options = StoreOptions::default();
        for (url, clean) in [("s3://b", "s3://b"), ("s3://b/", "s3://b"), ("s3://b/p/q/", "s3://b/p/q")] {
            assert_eq!(open(url, &options).expect(url).1, clean);
        }
        for bad in ["s3://", "s3:///p", "s3://b/../c", "s3://b//c", "s3://key:secret@b/p"] {
            assert!(matches!(open(bad, &options), Err(ArtifactError::Url { .. })), "{bad}");
        }
    }
}
