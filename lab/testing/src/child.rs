//! A test in a process of its own.

use std::process::Command;

/// The command that runs the ignored test `name` of this test binary alone.
pub fn child(name: &str) -> Command {
    let test = std::env::current_exe().expect("this test's path");
    // Under an emulator the child needs it too.
    let prefix = format!("CARGO_TARGET_{}_", std::env::consts::ARCH.to_uppercase());
    let runner = std::env::vars()
        .find(|(name, _)| name.starts_with(&prefix) && name.ends_with("_RUNNER"))
        .map(|(_, runner)| runner)
        .unwrap_or_default();
    let mut words = runner.split_whitespace();
    let mut command = match words.next() {
        Some(first) => {
            let mut command = Command::new(first);
            command.args(words).arg(test);
            command
        }
        None => Command::new(test),
    };
    command.args(["--ignored", "--exact", name, "--nocapture"]);
    command
}
