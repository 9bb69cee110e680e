//! Tests in two halves: the outer one runs the inner one, an ignored test of the same program, where the kernel says no.

use std::{
    fs::File,
    io::Read,
    process::{Command, Stdio},
};

/// By this the inner half knows that it is one.
const VARIABLE: &str = "RUN_TOOL_TEST_INNER";

/// Whether this is the inner half of a test. An inner half that is run by itself does nothing.
#[expect(clippy::disallowed_methods, reason = "how an outer half tells")]
pub(crate) fn is_inner() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// A command to be given to [`run`].
#[expect(clippy::disallowed_methods, reason = "it starts this test program again, which is no tool call")]
pub(crate) fn command(program: &str) -> Command {
    Command::new(program)
}

/// Makes it run the inner half `test` of this program. The program is found through a descriptor of ours, so that
/// another user need not be able to reach its folder.
pub(crate) fn run(mut command: Command, test: &str) {
    let (mut read, write) = std::io::pipe().expect("a pipe can be made");
    command
        .args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, "1")
        .stdin(Stdio::null())
        .stdout(write.try_clone().expect("a descriptor can be duplicated"))
        .stderr(write);
    let mut child = command.spawn().expect("this program can be started again");
    drop(command);
    let mut said = String::new();
    read.read_to_string(&mut said).expect("what it says can be read");
    let status = child.wait().expect("it is our child");
    assert!(status.success() && said.contains("1 passed"), "{status}\n{said}");
}

/// Whether this program can be opened by its path, as another user would have to.
pub(crate) fn own_path() -> String {
    let path = std::env::current_exe().expect("we know our own path");
    drop(File::open(&path).expect("our own program can be opened"));
    path.to_str().expect("a path in UTF-8").to_owned()
}
