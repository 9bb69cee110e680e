//! What an ending is to a shell.

use run_tool::{CancelSource, ErrorKind, ExecutionError, ExitStatus, Report};

/// The table for people; [`exit_code`] is the same for shells.
pub(crate) const TABLE: &str = "\
Exit codes:
  outcome                          run       exec
  ok                               0         0
  the process exited with code n   1         n
  the tool threw an error          1         -
  invalid call                     2         125
  unreadable answer                76        -
  outcome lost                     70        125
  busy                             75        125
  limit hit                        123       123
  timeout                          124       124
  cannot be sandboxed as asked     125       125
  not executable                   126       126
  not found                        127       127
  could not be started otherwise   125       125
  canceled by Ctrl-C / SIGTERM     130/143   130/143
  our own output was closed        141       141
  our own output failed otherwise  74        74
  killed by signal n from outside  128+n     128+n

With exec these can collide with the command's own codes: --json and --report FILE tell them apart.";

/// The exit codes of `group`.
pub(crate) const GROUP: &str = "\
Exit codes:
  all calls succeeded (with --first-success: one)  0
  a call did not                                   1
  nothing was started, as something was wrong      2
  canceled by Ctrl-C / SIGTERM                     130/143
  our own output was closed                        141
  our own output failed otherwise                  74";

/// Which column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Run,
    Exec,
}

impl Column {
    /// For what is wrong before there is an execution.
    pub(crate) fn invalid(self) -> u8 {
        match self {
            Column::Run => 2,
            Column::Exec => 125,
        }
    }
}

/// Whoever read our output has closed it; what a shell shows for a program that SIGPIPE ended.
pub(crate) const OUTPUT_CLOSED: u8 = 141;

/// Our output cannot be written for another reason (EX_IOERR, sysexits.h).
pub(crate) const CANNOT_WRITE: u8 = 74;

/// What a shell shows for a program that this signal ended.
pub(crate) fn by_signal(number: i32) -> u8 {
    u8::try_from(128 + number).unwrap_or(255)
}

/// The exit code of an ending.
pub(crate) fn exit_code(end: &Result<Report, ExecutionError>, column: Column) -> u8 {
    match end {
        Ok(_) => 0,
        Err(error) => of_failure(error.kind(), column),
    }
}

/// The exit code of one that is no success.
pub(crate) fn of_failure(kind: &ErrorKind, column: Column) -> u8 {
    use Column::{Exec, Run};
    const ENOENT: i32 = 2;
    const EACCES: i32 = 13;
    const ENOEXEC: i32 = 8;

    match (kind, column) {
        (ErrorKind::Process { status: ExitStatus::Signal(number) }, _) => by_signal(*number),
        (ErrorKind::Process { status: ExitStatus::Code(code) }, Exec) => u8::try_from(*code).unwrap_or(255),
        (ErrorKind::Process { status: ExitStatus::Code(_) } | ErrorKind::Tool(_), _) => 1,
        (ErrorKind::Invalid { .. }, column) => column.invalid(),
        (ErrorKind::Protocol { .. }, _) => 76,
        (ErrorKind::Lost { .. }, Run) => 70,
        (ErrorKind::Busy { .. }, Run) => 75,
        (ErrorKind::Lost { .. } | ErrorKind::Busy { .. }, Exec) => 125,
        (ErrorKind::Limit { .. }, _) => 123,
        (ErrorKind::Timeout { .. }, _) => 124,
        (ErrorKind::Sandbox { .. }, _) => 125,
        (ErrorKind::Spawn { errno: EACCES | ENOEXEC, step, .. }, _) if of_program(*step) => 126,
        (ErrorKind::Spawn { errno: ENOENT, step, .. }, _) if of_program(*step) => 127,
        (ErrorKind::Spawn { .. }, _) => 125,
        (ErrorKind::Canceled { by: CancelSource::Signal(number), .. }, _) => by_signal(*number),
        (ErrorKind::Canceled { .. }, _) => 130,
        // `ErrorKind` may grow.
        (_, _) => 70,
    }
}

/// Whether the step failed on the program itself.
fn of_program(step: run_tool::LaunchStep) -> bool {
    matches!(step, run_tool::LaunchStep::Lookup | run_tool::LaunchStep::Exec)
}
