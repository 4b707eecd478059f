//! Files that appear whole or not at all.

use crate::signals;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use tempfile::{NamedTempFile, TempPath};

/// The temporary files to remove if a signal ends the process.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file being written under a temporary name beside its final one. Dropping
/// it without [`AtomicFile::commit`] removes it; so do Ctrl-C, SIGTERM and every other signal
/// that can be caught.
pub struct AtomicFile {
    file: File,
    written: Written,
}

/// A file that is written and has its temporary name still. Dropping it removes it.
pub struct Written {
    /// `None` once it has its final name.
    temp: Option<TempPath>,
    path: PathBuf,
    overwrite: bool,
}

impl AtomicFile {
    /// Starts a file that will be `path`. An existing one is an error unless
    /// `overwrite`.
    pub fn create(path: &Path, overwrite: bool) -> Result<Self> {
        let (path, replaced) = checked(path, overwrite)?;
        remove_on_signals();
        // As any new file, and the umask takes its share; or not readable by others until it
        // has the mode of the file that it replaces.
        let mode = replaced.as_ref().map_or(0o666, |_| 0o600);
        let mut builder = tempfile::Builder::new();
        builder.prefix(".tritgemm-").suffix(".part");
        let mut unfinished = unfinished();
        // Opened here: tempfile's own errors name the random file name, which helps nobody.
        let temp = builder
            .make_in(directory(&path), |part| open(part, mode))
            .context("cannot create a file in its folder")?;
        unfinished.insert(temp.path().to_owned());
        drop(unfinished);
        let (file, temp) = NamedTempFile::into_parts(temp);
        let written = Written {
            temp: Some(temp),
            path,
            overwrite,
        };
        if let Some(permissions) = replaced {
            let kept = file.set_permissions(permissions);
            kept.context("cannot give it the mode of the file that it replaces")?;
        }
        Ok(Self { file, written })
    }

    /// Writes `bytes` at `offset`.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| self.file.write_all(bytes))
            .context("cannot write")
    }

    /// The file itself, to be written from where it is on.
    pub fn writer(&mut self) -> &mut File {
        &mut self.file
    }

    /// Bytes written so far, up to the last one.
    pub fn len(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        Ok(metadata.context("cannot read the length")?.len())
    }

    /// Flushes to the disk and closes the file, which has no name yet.
    pub fn close(self) -> Result<Written> {
        self.file.sync_all().context("cannot write")?;
        Ok(self.written)
    }

    /// Flushes to the disk and gives the file its name.
    pub fn commit(self) -> Result<()> {
        commit(vec![self.close()?]).map_err(|(_, error)| error)
    }
}

/// Gives files their names, one after the other. If one cannot have its name, those that are
/// new are removed again; the error is with the number of that file. A signal waits.
pub fn commit(mut files: Vec<Written>) -> Result<(), (usize, anyhow::Error)> {
    let mut unfinished = unfinished();
    let mut fresh = Vec::new();
    let mut failed = None;
    for (i, file) in files.iter_mut().enumerate() {
        let Some(temp) = file.temp.take() else {
            continue;
        };
        let part = temp.to_path_buf();
        let new = fs::symlink_metadata(&file.path).is_err();
        let named = match file.overwrite {
            true => temp.persist(&file.path),
            false => temp.persist_noclobber(&file.path),
        };
        match named {
            Ok(()) => {
                unfinished.remove(&part);
                fresh.extend(new.then(|| file.path.clone()));
            }
            Err(e) => {
                file.temp = Some(e.path);
                failed = Some((i, anyhow::Error::new(e.error).context("cannot write")));
                break;
            }
        }
    }
    if failed.is_some() {
        for path in fresh {
            let _ = fs::remove_file(path);
        }
    }
    drop(unfinished);
    // The names themselves must last, too. Not every file system can promise.
    #[cfg(unix)]
    if let Some(file) = files.last() {
        let _ = File::open(directory(&file.path)).and_then(|dir| dir.sync_all());
    }
    failed.map_or(Ok(()), Err)
}

#[cfg_attr(not(unix), allow(unused_variables))]
fn open(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    options.open(path)
}

/// Writes where the last write ended.
impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if let Some(temp) = self.temp.take() {
            let part = temp.to_path_buf();
            drop(temp);
            unfinished().remove(&part);
        }
    }
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

fn remove_on_signals() {
    static ONCE: Once = Once::new();
    // Without a handler a signal leaves the temporary file, no more.
    ONCE.call_once(|| drop(signals::on_end(end)));
}

/// Ends the process by `signal`, and removes what is not finished.
pub fn end(signal: i32) {
    let unfinished = unfinished();
    for path in unfinished.iter() {
        let _ = fs::remove_file(path);
    }
    // The lock is held to the end, so that no new file appears. The code is what
    // shells give a process that the signal ended.
    std::process::exit(128 + signal);
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

    /// If one of several files cannot have its name, none is there.
    #[test]
    fn several_files_are_there_or_none_is() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b", "c"].map(|name| dir.path().join(name));
        let files = || {
            let file = |path: &PathBuf| AtomicFile::create(path, false)?.close();
            paths.iter().map(file).collect::<Result<Vec<_>>>().unwrap()
        };
        let all = files();
        assert_eq!(names(dir.path()).len(), 3);
        fs::write(&paths[1], b"theirs").unwrap();
        let (at, _) = commit(all).unwrap_err();
        assert_eq!((at, names(dir.path())), (1, vec!["b".to_owned()]));
        fs::remove_file(&paths[1]).unwrap();
        commit(files()).unwrap();
        assert_eq!(names(dir.path()), ["a", "b", "c"]);
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
