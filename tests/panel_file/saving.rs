//! Saving is atomic, and what fails says where.

use crate::{Dir, assert_same, bytes, case};
use std::fs;
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

#[test]
fn a_missing_file_is_named() {
    let dir = Dir::new();
    let path = dir.join("missing.trit");
    let check = |error: PanelFileError| match &error {
        PanelFileError::Io { path: p, source } => {
            assert_eq!((p, source.kind()), (&path, std::io::ErrorKind::NotFound));
            assert!(error.to_string().contains("missing.trit"), "{error}");
        }
        _ => panic!("{error}"),
    };
    check(PanelFile::load(&path).expect_err("missing"));
    check(Linear::load(&path).expect_err("missing"));
    #[cfg(feature = "mmap")]
    // SAFETY: there is no file.
    check(unsafe { PanelFile::map(&path, tritgemm::Verify::Full) }.expect_err("missing"));
}
