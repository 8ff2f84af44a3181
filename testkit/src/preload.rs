//! A library that bends what a process is told by its C library: a full disk, a wrong time of day.
//!
//! Used by chaos scenarios: `LD_PRELOAD` names it, `preload.c` says which variables it heeds. It is built
//! with the C compiler that Rust needs to link.

use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("preload.c");

/// Builds it in `folder`.
///
/// # Panics
/// There is no C compiler.
pub fn build_preload(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("preload.c"), folder.join("preload.so"));
    std::fs::write(&source, SOURCE).expect("written");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").output();
    let built = built.expect("a C compiler, which Rust needs to link, too");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    library
}
