//! Saving under SIGKILL and on a disk that is full.

use crate::{Dir, assert_same, case};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tritgemm::{Linear, PanelFile};

const VARIABLE: &str = "TRITGEMM_TEST_SAVE";

/// Two layers whose files take a while to write.
fn layers() -> [Linear; 2] {
    [64, 65].map(|m| case(64 * m, 2048, 0, 2, true).layer)
}

/// Saves one layer after the other, for ever.
#[test]
#[ignore = "run by the test below, which ends it"]
fn child() {
    let Some(path) = std::env::var_os(VARIABLE) else {
        return;
    };
    let layers = layers();
    for layer in layers.iter().cycle() {
        layer.save(&path).expect("saved");
    }
}

fn unfinished(dir: &Dir) -> Vec<PathBuf> {
    let names = dir.names().into_iter();
    let names = names.filter(|name| name.ends_with(".tmp"));
    names.map(|name| dir.join(&name)).collect()
}

#[test]
fn a_kill_at_any_moment_leaves_a_whole_file() {
    let dir = Dir::new();
    let path = dir.join("layer.trit");
    let whole = layers().map(|layer| PanelFile::from(&layer));
    whole[0].save(&path).expect("saved");
    let (mut landed, mut versions) = (0, [0; 2]);
    for kill in 0..50 {
        let mut child = tritgemm_testing::child::child("killed::child")
            .env(VARIABLE, &path)
            .stdout(Stdio::null())
            .spawn()
            .expect("the child");
        let deadline = Instant::now() + Duration::from_secs(60);
        // Some kills wait for the other version: a slow child would be killed
        // before its first save is whole, each time.
        let size = |path: &Path| fs::metadata(path).map(|m| m.len()).ok();
        let before = size(&path);
        while unfinished(&dir).is_empty() || kill % 5 == 4 && size(&path) == before {
            assert!(Instant::now() < deadline, "the child saves nothing");
            std::thread::sleep(Duration::from_micros(200));
        }
        if kill % 5 != 4 {
            std::thread::sleep(Duration::from_micros(300 * kill));
        }
        child.kill().expect("killed");
        child.wait().expect("ended");
        let left = unfinished(&dir);
        landed += usize::from(!left.is_empty());
        // Whatever is left stands in nobody's way: it goes, or the next save
        // passes by.
        if kill % 2 == 0 {
            left.iter()
                .for_each(|path| fs::remove_file(path).expect("removed"));
        }
        let found = PanelFile::load(&path).expect("old or new, but whole");
        let which = usize::from(found.panels().rows() == whole[1].panels().rows());
        assert_same(&found, &whole[which]);
        versions[which] += 1;
        for path in unfinished(&dir) {
            whole[0].save(dir.join("other")).expect("saved beside it");
            fs::remove_file(path).expect("removed");
        }
    }
    println!("{landed} of 50 kills hit a half-written file; found {versions:?} of each version");
    assert!(landed >= 10, "only {landed} kills hit a half-written file");
    assert!(versions.iter().all(|&n| n > 0), "{versions:?}");
}

/// A file system of a few hundred KiB at `dir`, until dropped.
struct Small(PathBuf);

impl Small {
    fn mount(dir: &Path) -> Option<Self> {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
            .arg(dir)
            .stderr(Stdio::null())
            .status();
        status
            .is_ok_and(|s| s.success())
            .then(|| Self(dir.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_keeps_the_old_file() {
    let dir = Dir::new();
    let mount = dir.join("small");
    fs::create_dir(&mount).expect("a directory");
    let Some(_small) = Small::mount(&mount) else {
        println!("SKIPPED: a_full_disk_keeps_the_old_file, no permission to mount");
        return;
    };
    let (path, old) = (mount.join("layer.trit"), case(64, 512, 0, 2, true).layer);
    old.save(&path).expect("room for this");
    let error = layers()[0].save(&path).expect_err("no room");
    let text = error.to_string();
    assert!(text.contains("layer.trit: No space left"), "{text}");
    assert_same(
        &PanelFile::load(&path).expect("the old file"),
        &PanelFile::from(&old),
    );
    let names = fs::read_dir(&mount).expect("a directory").count();
    assert_eq!(names, 1, "nothing else is left behind");
}
