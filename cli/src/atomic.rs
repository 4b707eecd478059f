//! A file that appears whole or not at all.

use crate::signals;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};
use tempfile::NamedTempFile;

/// The temporary files to remove if a signal ends the process.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A file being written under a temporary name beside its final one. Dropping
/// it without [`AtomicFile::commit`] removes it; so do Ctrl-C, SIGTERM and every other signal
/// that can be caught.
pub struct AtomicFile {
    /// `None` once it has its final name.
    temp: Option<NamedTempFile>,
    path: PathBuf,
    overwrite: bool,
}

impl AtomicFile {
    /// Starts a file that will be `path`. An existing one is an error unless
    /// `overwrite`.
    pub fn create(path: &Path, overwrite: bool) -> Result<Self> {
        let (path, replaced) = checked(path, overwrite)?;
        remove_on_signals();
        let mut builder = tempfile::Builder::new();
        builder.prefix(".tritgemm-").suffix(".part");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As any new file, and the umask takes its share; or not readable by others until
            // it has the mode of the file that it replaces.
            let mode = replaced.as_ref().map_or(0o666, |_| 0o600);
            builder.permissions(fs::Permissions::from_mode(mode));
        }
        let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
        let temp = builder
            .tempfile_in(directory(&path))
            .map_err(without_path)
            .context("cannot create a file in its folder")?;
        unfinished.insert(temp.path().to_owned());
        drop(unfinished);
        if let Some(permissions) = replaced {
            let kept = temp.as_file().set_permissions(permissions);
            kept.context("cannot give it the mode of the file that it replaces")?;
        }
        Ok(Self {
            temp: Some(temp),
            path,
            overwrite,
        })
    }

    /// Writes `bytes` at `offset`.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let file = self.writer();
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.write_all(bytes))
            .context("cannot write")
    }

    /// The file itself, to be written from where it is on.
    pub fn writer(&mut self) -> &mut File {
        self.temp.as_mut().expect("not committed yet").as_file_mut()
    }

    /// Bytes written so far, up to the last one.
    pub fn len(&self) -> Result<u64> {
        let file = self.temp.as_ref().expect("not committed yet").as_file();
        Ok(file.metadata().context("cannot read the length")?.len())
    }

    /// Flushes to the disk and gives the file its name.
    pub fn commit(mut self) -> Result<()> {
        let temp = self.temp.take().expect("committed once");
        let part = temp.path().to_owned();
        let named = match temp.as_file().sync_all() {
            Err(e) => Err(e),
            Ok(()) if self.overwrite => temp.persist(&self.path).map_err(|e| e.error),
            Ok(()) => temp.persist_noclobber(&self.path).map_err(|e| e.error),
        };
        named.map_err(without_path).context("cannot write")?;
        finished(&part);
        // The name itself must last, too. Not every file system can promise.
        #[cfg(unix)]
        let _ = File::open(directory(&self.path)).and_then(|dir| dir.sync_all());
        Ok(())
    }
}

/// Writes where the last write ended.
impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = self.temp.as_mut().expect("not committed yet");
        file.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(temp) = self.temp.take() {
            let part = temp.path().to_owned();
            drop(temp);
            finished(&part);
        }
    }
}

fn finished(part: &Path) {
    let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
    unfinished.remove(part);
}

/// Where a file that will be `path` goes, and the mode of the one it replaces. What is no
/// regular file is refused before anything opens it: a pipe would wait for its reader.
pub fn checked(path: &Path, overwrite: bool) -> Result<(PathBuf, Option<fs::Permissions>)> {
    // A link stays a link: what it points to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let replaced = match fs::symlink_metadata(&path) {
        Ok(kind) if kind.is_dir() => bail!("is a directory, expected a file"),
        Ok(kind) if kind.is_symlink() => bail!("is a link that leads nowhere"),
        Ok(kind) => {
            ensure!(kind.is_file(), "exists and is not a regular file");
            ensure!(overwrite, "exists already; --force replaces it");
            Some(kind.permissions())
        }
        Err(_) => {
            ensure!(path.file_name().is_some(), "is not a file name");
            ensure!(
                directory(&path).is_dir(),
                "cannot create a file in its folder, which does not exist"
            );
            None
        }
    };
    Ok((path, replaced))
}

/// Whether two paths lead to one file; told without opening either.
pub fn same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let identity = |path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
        identity(a).is_some_and(|a| identity(b) == Some(a))
    }
    #[cfg(not(unix))]
    {
        let real = |path| fs::canonicalize(path).ok();
        real(a).is_some_and(|a| real(b) == Some(a))
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// tempfile's errors name the random file name, which helps nobody.
fn without_path(e: io::Error) -> io::Error {
    match e.get_ref().and_then(std::error::Error::source) {
        Some(source) => io::Error::new(e.kind(), source.to_string()),
        None => e,
    }
}

fn remove_on_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Without a handler a signal leaves the temporary file, no more.
        let _ = signals::on_end(|signal| {
            let unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
            for path in unfinished.iter() {
                let _ = fs::remove_file(path);
            }
            // The lock is held to the end, so that no new file appears. The code is what
            // shells give a process that the signal ended.
            std::process::exit(128 + signal);
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn dropped_leaves_nothing_and_committed_leaves_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut file = AtomicFile::create(&path, false).unwrap();
        file.write_at(3, b"def").unwrap();
        assert_eq!(names(dir.path()).len(), 1);
        drop(file);
        assert!(names(dir.path()).is_empty());

        let mut file = AtomicFile::create(&path, false).unwrap();
        file.write_at(3, b"def").unwrap();
        file.write_at(0, b"abc").unwrap();
        file.commit().unwrap();
        assert_eq!(names(dir.path()), ["out"]);
        assert_eq!(fs::read(&path).unwrap(), b"abcdef");
    }

    #[test]
    fn a_file_that_appeared_meanwhile_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let file = AtomicFile::create(&path, false).unwrap();
        fs::write(&path, b"theirs").unwrap();
        assert!(file.commit().is_err());
        assert_eq!(names(dir.path()), ["out"]);
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
    }
}
