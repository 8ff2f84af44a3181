//! From the spec to a validated [`Dag`], or every mistake at once.

use crate::dag::{Dag, Diagnostics, KindCatalog};

/// Lowers the text of `file`. Returns the DAG with its warnings, or all diagnostics if one is an error.
pub fn lower(file: &str, source: &str, kinds: &dyn KindCatalog) -> Result<(Dag, Diagnostics), Diagnostics> {
    let _ = (file, source, kinds);
    unimplemented!()
}
