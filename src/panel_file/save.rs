//! Replacing a file atomically.

use crate::panel_file::PanelFileError;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process;

/// Writes a new file beside `path` and renames it to `path` once it is on the
/// disk. On an error the new file is removed again.
pub(super) fn replace(
    path: &Path,
    write: impl FnOnce(&File) -> Result<(), PanelFileError>,
) -> Result<(), PanelFileError> {
    let io = |e| PanelFileError::io(path, e);
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let Some(name) = path.file_name() else {
        let message = "the path has no file name";
        return Err(io(io::Error::new(io::ErrorKind::InvalidInput, message)));
    };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    let (temporary, file) = create(&dir.join(hidden)).map_err(io)?;
    write(&file)?;
    file.sync_all().map_err(io)?;
    drop(file);
    temporary.rename(path).map_err(io)?;
    sync_dir(dir).map_err(io)
}

/// A file that is removed when dropped, unless it was renamed.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn rename(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // Already on the way out with the error that matters.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Creates a file that was not there, `stem` with something appended.
fn create(stem: &Path) -> io::Result<(Temporary, File)> {
    let mut attempt = 0u32;
    loop {
        let mut name = stem.as_os_str().to_owned();
        name.push(format!(".{}-{attempt}.tmp", process::id()));
        let path = PathBuf::from(name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => {
                let renamed = false;
                return Ok((Temporary { path, renamed }, file));
            }
            // Another thread's, or left by a process that was killed.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => attempt += 1,
            Err(e) => return Err(e),
        }
    }
}

/// Makes a rename in `dir` last.
fn sync_dir(dir: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(dir)?.sync_all() {
        // Some network file systems cannot, and then there is nothing to do.
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_write_that_fails_leaves_the_old_file_alone() {
        let dir = std::env::temp_dir().join(format!("tritgemm-save-{}", process::id()));
        fs::create_dir(&dir).expect("a new directory");
        let path = dir.join("file");
        let io = |e| PanelFileError::io(&path, e);
        replace(&path, |mut file| file.write_all(b"old").map_err(io)).expect("written");
        let error = replace(&path, |mut file| {
            file.write_all(b"new").map_err(io)?;
            Err(PanelFileError::NoScales)
        });
        let names: Vec<_> = fs::read_dir(&dir).expect("the directory").collect();
        let old = fs::read(&path).expect("the file");
        fs::remove_dir_all(&dir).expect("removed");
        assert!(matches!(error, Err(PanelFileError::NoScales)));
        assert_eq!((names.len(), old.as_slice()), (1, &b"old"[..]));
    }
}
