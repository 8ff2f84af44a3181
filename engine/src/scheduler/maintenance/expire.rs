//! Waits that took too long: instances that found no slot within their queue limit, or did not end
//! within their total limit, fail.
//!
//! An attempt that runs is stopped by its worker, which knows the total limit, too.

use crate::store::{Store, StoreError};

/// One round. Returns how many instances failed.
///
/// # Errors
/// The store's.
pub async fn run_once(store: &Store) -> Result<usize, StoreError> {
    store.expire_waits().await
}
