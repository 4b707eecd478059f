//! Saving is atomic, and what fails says where.

use crate::{Dir, assert_same, bytes, case};
use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;
use tritgemm::{Linear, PanelFile, PanelFileError};

#[test]
fn saving_leaves_one_file_and_replaces_what_was_there() {
    let dir = Dir::new();
    let path = dir.join("layer.trit");
    let (first, second) = (
        case(64, 12, 0, 1, false).layer,
        case(65, 100, 0, 2, true).layer,
    );
    first.save(&path).expect("saved");
    assert_eq!(dir.names(), ["layer.trit"]);
    let before = PanelFile::load(&path).expect("loaded");
    let held = fs::File::open(&path).expect("opened");
    second.save(&path).expect("saved again");
    assert_eq!(dir.names(), ["layer.trit"]);
    assert_same(
        &PanelFile::load(&path).expect("loaded"),
        &PanelFile::from(&second),
    );
    // Who had the old file open or mapped still has all of it.
    assert_same(&before, &PanelFile::from(&first));
    let len = held.metadata().expect("metadata").len();
    assert_eq!(len, bytes(&PanelFile::from(&first)).len() as u64);
}

#[test]
fn a_failed_save_leaves_nothing_behind() {
    let dir = Dir::new();
    let layer = case(2, 9, 0, 2, true).layer;
    // A directory cannot be replaced by a file.
    fs::create_dir_all(dir.join("taken/by")).expect("a directory");
    let error = layer
        .save(dir.join("taken"))
        .expect_err("a directory is there");
    assert!(matches!(&error, PanelFileError::Io { path, .. } if path.ends_with("taken")));
    assert_eq!(dir.names(), ["taken"]);

    for path in ["missing/layer.trit", "..", "/"] {
        let path = dir.join(path);
        let error = layer.save(&path).expect_err("no such place");
        assert!(matches!(&error, PanelFileError::Io { path: p, .. } if *p == path));
        let text = error.to_string();
        assert!(text.starts_with(&path.display().to_string()), "{text}");
    }
    assert_eq!(dir.names(), ["taken"]);
}

#[cfg(target_os = "linux")]
#[test]
fn an_unwritable_directory_is_an_error() {
    let layer = case(2, 9, 0, 2, true).layer;
    // /proc takes no files, not even from root.
    let error = layer.save("/proc/layer.trit").expect_err("unwritable");
    let text = error.to_string();
    assert!(text.starts_with("/proc/layer.trit: "), "{text}");
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_an_error() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    let result = PanelFile::from(&case(2, 9, 0, 2, true).layer).write_to(full.expect("opened"));
    assert_eq!(
        result.expect_err("full").kind(),
        std::io::ErrorKind::StorageFull
    );
}

/// Takes so many bytes and no more.
struct Room(usize);

impl io::Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        match taken {
            0 => Err(io::ErrorKind::StorageFull.into()),
            taken => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Header, panels, scales, bias: the error passes whichever it interrupts.
#[test]
fn a_writer_that_fails_anywhere_is_an_error() {
    let file = PanelFile::from(&case(2, 9, 0, 2, true).layer);
    let len = bytes(&file).len();
    for room in 0..len {
        let error = file.write_to(Room(room)).expect_err("no room");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{room} of {len}");
    }
    file.write_to(Room(len)).expect("room for all");
}

/// What a process that was killed left under the temporary name stays there.
#[test]
fn a_temporary_file_in_the_way_is_left_alone() {
    let dir = Dir::new();
    let left = format!(".layer.trit.{}-0.tmp", std::process::id());
    fs::write(dir.join(&left), "left").expect("written");
    let layer = case(2, 9, 0, 2, true).layer;
    layer.save(dir.join("layer.trit")).expect("saved");
    assert_eq!(dir.names(), [left.as_str(), "layer.trit"]);
    assert_eq!(fs::read(dir.join(&left)).expect("the file"), b"left");
}

#[cfg(unix)]
#[test]
fn a_directory_is_no_panel_file() {
    let dir = Dir::new();
    let check = |error: PanelFileError| match &error {
        PanelFileError::Io { path, .. } => assert_eq!(path, &dir.join("")),
        _ => panic!("{error}"),
    };
    check(PanelFile::load(dir.join("")).expect_err("a directory"));
    #[cfg(feature = "mmap")]
    // SAFETY: a directory is not mapped.
    check(
        unsafe { PanelFile::map(dir.join(""), tritgemm::Verify::Full) }.expect_err("a directory"),
    );
}

#[test]
fn a_missing_file_is_named() {
    let dir = Dir::new();
    let path = dir.join("missing.trit");
    let check = |error: PanelFileError| match &error {
        PanelFileError::Io { path: p, source } => {
            assert_eq!((p, source.kind()), (&path, std::io::ErrorKind::NotFound));
            assert!(error.to_string().contains("missing.trit"), "{error}");
            let text = error.source().map(ToString::to_string);
            assert_eq!(text, Some(source.to_string()));
        }
        _ => panic!("{error}"),
    };
    check(PanelFile::load(&path).expect_err("missing"));
    check(Linear::load(&path).expect_err("missing"));
    #[cfg(feature = "mmap")]
    // SAFETY: there is no file.
    check(unsafe { PanelFile::map(&path, tritgemm::Verify::Full) }.expect_err("missing"));
}
