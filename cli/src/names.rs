//! Tensors chosen by name.

use anyhow::{Result, bail};
use globset::{Glob, GlobSet, GlobSetBuilder};
use std::path::Path;

/// Matches what any of `globs` matches. One that matches none of `names` is an
/// error: it is most likely misspelt.
pub fn matcher<'a>(
    globs: &[Glob],
    names: impl Iterator<Item = &'a str> + Clone,
    file: &Path,
) -> Result<GlobSet> {
    let mut builder = GlobSetBuilder::new();
    for glob in globs {
        let matcher = glob.compile_matcher();
        if !names.clone().any(|name| matcher.is_match(name)) {
            let file = file.display();
            bail!("no tensor of `{file}` matches `{}`", glob.glob());
        }
        builder.add(glob.clone());
    }
    Ok(builder.build()?)
}
