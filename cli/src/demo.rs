//! `tritgemm demo`: everything on a small stack of layers made for it.

use crate::args::DemoArgs;
use crate::output::Out;
use anyhow::Result;

/// Runs the command.
pub fn run(_args: &DemoArgs, _out: &mut Out) -> Result<()> {
    Ok(())
}
