//! `tritgemm quantize` under SIGKILL and on a disk that is full: its output is
//! the old file or the new one, never a part.
#![cfg(unix)]

mod common;

use common::{Dir, f32_tensor, tritgemm, weights};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Some 16 MiB, most of it copied: writing it takes a while.
fn input(dir: &Dir) -> PathBuf {
    let copied = f32_tensor(&weights(1 << 22), &[1 << 22]);
    let matrix = f32_tensor(&weights(512 * 512), &[512, 512]);
    dir.write("in", &[("w", matrix), ("copied", copied)], &[])
}

fn spawn(input: &Path, output: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_tritgemm"))
        .args(["quantize", "--force"])
        .args([input, output])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The temporary files of writes that were cut short.
fn unfinished(dir: &Dir) -> Vec<PathBuf> {
    let names = dir.names().into_iter();
    let names = names.filter(|n| n.starts_with(".tritgemm-") && n.ends_with(".part"));
    names.map(|name| dir.path(&name)).collect()
}

/// Waits until the temporary file is there; false if the program ended first.
fn writing(dir: &Dir, child: &mut Child) -> bool {
    loop {
        if !unfinished(dir).is_empty() {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn fifty_kills_leave_the_old_file_or_the_new() {
    let dir = Dir::new();
    let (input, output) = (input(&dir), dir.path("out"));
    // One run to the end: what the new file is, and how long writing it takes.
    let mut child = spawn(&input, &output);
    assert!(writing(&dir, &mut child), "no temporary file was seen");
    let start = Instant::now();
    assert!(child.wait().unwrap().success());
    let write_time = start.elapsed();
    let new = fs::read(&output).unwrap();
    let old = b"the old file".to_vec();

    let (mut landed, mut old_found, mut new_found) = (0, 0, 0);
    for kill in 0..50 {
        fs::write(&output, &old).unwrap();
        let mut child = spawn(&input, &output);
        if writing(&dir, &mut child) {
            // From the first moment of the write to some time after its end.
            std::thread::sleep(write_time * kill / 40);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let left = unfinished(&dir);
        landed += usize::from(!left.is_empty());
        for path in left {
            fs::remove_file(path).unwrap();
        }
        let found = fs::read(&output).unwrap();
        if found == old {
            old_found += 1;
        } else {
            assert!(
                found == new,
                "kill {kill}: {} bytes of neither",
                found.len()
            );
            new_found += 1;
        }
        assert_eq!(dir.names(), ["in", "out"]);
    }
    println!(
        "{landed} of 50 kills hit a write of {write_time:?}; \
         the old file was there {old_found} times, the new one {new_found} times"
    );
    assert!(landed >= 10, "only {landed} kills hit the write");
}

/// A limit on the size of files fails like a full disk, and needs no rights.
#[test]
fn a_write_that_fails_keeps_the_old_file() {
    let dir = Dir::new();
    let (input, output) = (input(&dir), dir.path("out"));
    fs::write(&output, "old").unwrap();
    // 1 MiB in blocks of 512; with the signal ignored the write gives an error.
    let script = "trap '' XFSZ; ulimit -f 2048; exec \"$@\"";
    let result = Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_tritgemm")])
        .args(["quantize", "--force"])
        .args([&input, &output])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&result.stderr);
    assert!(!result.status.success());
    assert!(
        text.contains("cannot write") && text.contains("too large"),
        "{text}"
    );
    assert_eq!(fs::read(&output).unwrap(), b"old");
    assert_eq!(dir.names(), ["in", "out"]);
}

#[test]
fn a_full_disk_keeps_the_old_file() {
    let dir = Dir::new();
    let (input, small) = (input(&dir), dir.path("small"));
    fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&small)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("SKIPPED: a_full_disk_keeps_the_old_file, no permission to mount");
        return;
    }
    let output = small.join("out");
    fs::write(&output, "old").unwrap();
    let result = tritgemm()
        .args(["quantize", "--force"])
        .args([&input, &output])
        .output();
    let (left, names) = (fs::read(&output), fs::read_dir(&small).unwrap().count());
    let unmounted = Command::new("umount").arg(&small).status();
    let result = result.unwrap();
    let text = String::from_utf8_lossy(&result.stderr);
    assert!(!result.status.success());
    assert!(text.contains("No space left on device"), "{text}");
    assert!(text.contains("out"), "{text}");
    assert_eq!((left.unwrap(), names), (b"old".to_vec(), 1));
    assert!(unmounted.unwrap().success());
}
