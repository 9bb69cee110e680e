//! The command line.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueHint};
use run_tool::{AfterExit, Level, Network, Overflow, Tmpfs, units};

use crate::{
    exit_code,
    values::{self, CgroupIn},
};

/// Runs the tools of AI agents: each call in a fresh process that cannot outlive it and ends in one truthful outcome.
#[derive(Debug, Parser)]
#[command(name = "run-tool", version, after_help = exit_code::TABLE, max_term_width = 100)]
pub(crate) struct Cli {
    /// Send spans and metrics of calls to the OpenTelemetry collector at this address, as in http://localhost:4318; for a
    /// run-tool that was built with the feature `otel` [default: OTEL_EXPORTER_OTLP_ENDPOINT, or nowhere]
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) otel_endpoint: Option<String>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a tool: a function exported by a file, or a tool that the manifest declares
    ///
    /// The function gets the input and a context (`id`, `config`, `workdir`, `signal`, `progress()`, `log()`); what it
    /// returns is printed as JSON. What the tool itself prints goes to standard error.
    #[command(after_help = exit_code::TABLE)]
    Run(Run),
    /// Run a command, its output passed through byte for byte
    #[command(after_help = exit_code::TABLE)]
    Exec(Exec),
    /// Run several calls under one rule, and show how each of them ended
    ///
    /// The file has a call on each line, as JSON: {"tool": "word-count", "input": {"text": "…"}} or {"command": ["make"],
    /// "stdin": "…"}. Beside that it may have a label, and as in the manifest timeout, idle, kill_grace, after_exit, drain,
    /// overflow, limits, policy, env, retry and workdir, which win over the options below. A file that ends in .toml has
    /// the same keys in `[[calls]]`. Paths in it are relative to it.
    #[command(after_help = exit_code::GROUP)]
    Group(Group),
    /// Follow a log: each line once, though its source is opened anew every few minutes
    ///
    /// A command of your own says {since} where it is told the time to begin at, and begins each line with its time; so
    /// do docker, podman and kubectl. The journal is continued at its cursor, a file at its last byte.
    #[command(after_help = exit_code::TABLE)]
    Follow(Follow),
    #[command(flatten)]
    Manage(Manage),
}

/// Everything but calls.
#[derive(Debug, Subcommand)]
pub(crate) enum Manage {
    /// List the tools of the manifest
    List(List),
    /// Show a tool of the manifest: its schemas, limits and policy, and an example call
    Describe(Describe),
    /// Check the manifest: everything that is wrong with it, with the place
    Check(Check),
    /// Make a new tool in the current folder: its file, its entry in tools.toml, and a call to try it
    New(New),
    /// Say what this machine can enforce, what is missing for more, and which runtimes there are
    ///
    /// Everything is tried out. Exit code 0: level 3 or 4, which is what calls need unless they accept less.
    Doctor(Doctor),
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    Man {
        /// The folder
        #[arg(value_hint = ValueHint::DirPath)]
        folder: PathBuf,
    },
    /// Print the JSON Schema of the report that --json and --report write
    Schema,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// A file that exports a tool, or the name of a tool that the manifest declares
    #[arg(value_name = "FILE|TOOL", value_hint = ValueHint::FilePath)]
    pub(crate) target: PathBuf,

    /// The manifest [default: tools.toml in the current folder or above it]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) manifest: Option<PathBuf>,

    /// Which of its exports is the tool [default: the default export, or the only function]
    #[arg(long, value_name = "NAME")]
    pub(crate) export: Option<String>,

    /// The input: JSON, @FILE to read it from a file, - for standard input, or fields of an object one by one (a value
    /// that is not JSON is a text)
    #[arg(long, value_name = "JSON|@FILE|-|KEY=VALUE")]
    pub(crate) input: Vec<String>,

    /// What runs it: bun, node, deno, python, shell or command, and with =PATH where that is [default: by the file's
    /// ending, or its first line; from node_modules/.bin or .venv/bin beside the tool or above it, then from PATH]
    #[arg(long, value_name = "NAME[=PATH]", value_parser = values::runtime)]
    pub(crate) runtime: Option<values::RuntimeChoice>,

    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// The manifest [default: tools.toml in the current folder or above it]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) manifest: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Describe {
    /// The tool's name
    pub(crate) tool: String,

    #[command(flatten)]
    pub(crate) list: List,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The manifest [default: tools.toml in the current folder or above it]
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) manifest: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Examine as if the machine offered no more than this level
    #[arg(long, value_name = "N|none", value_parser = units::parse_level)]
    pub(crate) level: Option<Level>,

    /// The user that tools are to run as, by number; only root can choose [default: 65519]
    #[arg(long, value_name = "UID", value_parser = values::user)]
    pub(crate) user: Option<u32>,

    /// A cgroup (version 2) that was delegated to us, or none [default: found, or asked of systemd]
    #[arg(long, value_name = "DIR|none", value_hint = ValueHint::DirPath, value_parser = values::cgroup)]
    pub(crate) cgroup: Option<CgroupIn>,
}

#[derive(Debug, Args)]
pub(crate) struct New {
    /// The tool's name
    pub(crate) tool: String,

    /// What it runs in: bun, node, deno, python or shell
    #[arg(long, value_name = "NAME", value_parser = values::runtime_name)]
    pub(crate) runtime: run_tool::Runtime,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,

    /// What the command reads: a file, or - for our own standard input [default: ours, unless it is a
    /// terminal or --retry asks for several attempts]
    #[arg(long, value_name = "FILE|-", value_parser = values::stdin)]
    pub(crate) stdin: Option<values::StdinFrom>,

    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Group {
    /// The calls: a file of JSON lines or a .toml file, or - for JSON lines on standard input
    #[arg(value_name = "FILE|-", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,

    /// The manifest [default: tools.toml in the current folder or above it]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) manifest: Option<PathBuf>,

    /// The first that fails cancels the others
    #[arg(long, conflicts_with = "first_success")]
    pub(crate) fail_fast: bool,

    /// The first that succeeds cancels the others
    #[arg(long)]
    pub(crate) first_success: bool,

    /// How many run at a time [default: 8 for each processor]
    #[arg(long, value_name = "N", value_parser = values::count)]
    pub(crate) at_most: Option<u32>,

    /// The time for all of them together [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = values::some_time)]
    pub(crate) deadline: Option<Duration>,

    /// Print a line of JSON for each call when all have ended, in the order of the file: its report, with index and label
    #[arg(long)]
    pub(crate) json: bool,

    /// Write these lines to a file as well
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) report: Option<PathBuf>,

    /// Say nothing of our own: no progress, no table
    #[arg(long, short)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) terms: Terms,
}

#[derive(Debug, Args)]
pub(crate) struct Follow {
    /// What to follow; without it, the command after `--`
    pub(crate) source: Option<SourceName>,

    /// The container, pod, unit or file
    #[arg(requires = "source")]
    pub(crate) name: Option<OsString>,

    /// A command that says {since}; or more arguments for kubectl and journalctl
    #[arg(last = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,

    /// What it is called in JSON [default: its name]
    #[arg(long)]
    pub(crate) key: Option<String>,

    /// Where to begin: now, start, a time such as 2026-01-31T12:00:00Z, or how long ago
    #[arg(long, value_name = "WHEN", value_parser = values::since, default_value = "now")]
    pub(crate) since: run_tool::follow::Since,

    /// How a command of your own writes times: 2026-01-31T12:00:00.5Z, or seconds since 1970
    #[arg(long, value_name = "FORMAT", value_parser = values::time_format(), default_value = "rfc3339")]
    pub(crate) time_format: run_tool::follow::TimeFormat,

    /// The program to start [default: docker, podman, kubectl, journalctl or tail]
    #[arg(long, value_name = "PATH", requires = "source", value_hint = ValueHint::ExecutablePath)]
    pub(crate) program: Option<PathBuf>,

    /// How long a source runs before it is opened anew
    #[arg(long, value_name = "TIME", value_parser = values::some_time, default_value = "5m")]
    pub(crate) rotate_every: Duration,

    /// After how much output as well [default: any]
    #[arg(long, value_name = "SIZE", value_parser = values::some_size)]
    pub(crate) rotate_bytes: Option<u64>,

    /// Show the times that the source writes before its lines
    #[arg(long)]
    pub(crate) timestamps: bool,

    /// Print each line as JSON, with its key and time
    #[arg(long)]
    pub(crate) json: bool,

    /// Write the lines to a file instead
    #[arg(long, value_name = "PATH", conflicts_with = "json", value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,

    /// The size at which the file is renamed and begun anew
    #[arg(long, value_name = "SIZE", requires = "file", value_parser = values::some_size, default_value = "64MiB")]
    pub(crate) file_max_size: u64,

    /// The age at which it is as well [default: any]
    #[arg(long, value_name = "TIME", requires = "file", value_parser = values::some_time)]
    pub(crate) file_max_age: Option<Duration>,

    /// How many renamed files are kept
    #[arg(long, value_name = "N", requires = "file", default_value = "5")]
    pub(crate) keep: usize,

    /// Compress renamed files
    #[arg(long, requires = "file")]
    pub(crate) compress: bool,

    /// Say nothing but lines: not what the source says about itself, nor that it is opened again
    #[arg(long, short)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) given: Given,

    #[command(flatten)]
    pub(crate) sandbox: Sandbox,

    #[command(flatten)]
    pub(crate) use_up: UseUp,
}

/// What there is a template for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SourceName {
    /// `docker logs` of a container
    Docker,
    /// `podman logs` of a container
    Podman,
    /// `kubectl logs` of a pod
    Kubectl,
    /// `journalctl`, of a unit if one is named
    Journal,
    /// A file that is written to
    Tail,
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Print one report as JSON instead of anything else
    #[arg(long, conflicts_with = "events")]
    pub(crate) json: bool,

    /// Print what happens as JSON lines, as it happens, instead of anything else
    #[arg(long)]
    pub(crate) events: bool,

    /// Write the report as JSON to a file as well
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) report: Option<PathBuf>,

    /// Say nothing of our own: no progress, no verdict
    #[arg(long, short)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) terms: Terms,
}

/// What holds for a call.
#[derive(Debug, Args)]
pub(crate) struct Terms {
    /// How long it may run; none for no limit [default: the tool's, or 60s]
    #[arg(long, value_name = "TIME", value_parser = values::time_or_none)]
    pub(crate) timeout: Option<Duration>,

    /// How long it may run without output or progress [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = units::parse_time)]
    pub(crate) idle_timeout: Option<Duration>,

    /// The time between SIGTERM and SIGKILL [default: the tool's, or 2s]
    #[arg(long, value_name = "TIME", value_parser = units::parse_time)]
    pub(crate) kill_grace: Option<Duration>,

    /// What happens to what it leaves running: kill it when its output has ended but after TIME at the latest
    /// (linger:TIME), when its output has ended (wait), or at once (kill) [default: the tool's, or linger:200ms]
    #[arg(long, value_name = "linger[:TIME]|wait|kill", value_parser = units::parse_after_exit)]
    pub(crate) after_exit: Option<AfterExit>,

    #[command(flatten)]
    pub(crate) given: Given,

    /// How much of each output stream is kept for the report [default: the tool's, or 10MiB of stdout, 1MiB of stderr]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    pub(crate) max_output: Option<u64>,

    /// What happens past that: keep head and tail, or end the call [default: the tool's, or truncate]
    #[arg(long, value_name = "WHAT", value_parser = values::overflow())]
    pub(crate) overflow: Option<Overflow>,

    /// How often it is tried in all, when it fails [default: the tool's, or once]
    #[arg(long, value_name = "N", value_parser = values::count)]
    pub(crate) retry: Option<u32>,

    /// After which endings: process, protocol, lost, busy, limit, timeout, sandbox, spawn [default: the tool's, or busy, lost,
    /// and where it could not be started for want of something that may be there the next time]
    #[arg(long, value_name = "ENDING,…", value_delimiter = ',', requires = "retry")]
    pub(crate) retry_on: Vec<String>,

    /// The longest wait before the second attempt; it doubles from then on, and is shortened by chance [default: the tool's,
    /// or 200ms]
    #[arg(long, value_name = "TIME", value_parser = units::parse_time, requires = "retry")]
    pub(crate) retry_delay: Option<Duration>,

    #[command(flatten)]
    pub(crate) sandbox: Sandbox,

    #[command(flatten)]
    pub(crate) use_up: UseUp,
}

/// What it finds around it.
#[derive(Debug, Args)]
pub(crate) struct Given {
    /// Set a variable of its environment, which is otherwise clean
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::variable)]
    pub(crate) env: Vec<(String, String)>,

    /// Pass on a variable of our own environment
    #[arg(long, value_name = "NAME")]
    pub(crate) pass_env: Vec<String>,

    /// Set a variable of its environment that is shown nowhere: *** stands for it in all that is printed and written. The
    /// value is that of our own variable NAME, or what FILE contains, without a line end at its end
    #[arg(long, value_name = "NAME[=FILE]", value_parser = values::secret)]
    pub(crate) secret: Vec<values::SecretFrom>,

    /// The folder it runs in [default: the current one]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) workdir: Option<PathBuf>,
}

/// What it may touch. A tool that the manifest declares can be given less so, not more.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sandbox (a tool that the manifest declares can be given less, not more)")]
pub(crate) struct Sandbox {
    /// Show it a file or folder, read-only [default: the folder it runs in, and what every program needs of the system]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) ro: Vec<PathBuf>,

    /// Show it a file or folder that it may write to
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) rw: Vec<PathBuf>,

    /// Hide a file or folder that lies in one it is shown
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) hide: Vec<PathBuf>,

    /// Give it an empty folder in memory, gone when it ends
    #[arg(long, value_name = "PATH[:SIZE]", value_parser = units::parse_tmpfs)]
    pub(crate) tmpfs: Vec<Tmpfs>,

    /// Whom it may connect to [default: the tool's, or none]
    #[arg(long, visible_alias = "net", value_name = "WHOM", value_parser = values::network())]
    pub(crate) network: Option<Network>,

    /// The user it runs as on this machine, by number; only root can choose [default: the tool's, or 65519, who owns
    /// nothing]
    #[arg(long, value_name = "UID", value_parser = values::user)]
    pub(crate) user: Option<u32>,

    /// The least level of containment that will do: 4 all of it, 3 without a cgroup, 2 without namespaces, 1 Landlock and
    /// seccomp, none to run it without a sandbox [default: the tool's, or 3]
    #[arg(long, value_name = "N|none", value_parser = units::parse_level)]
    pub(crate) level: Option<Level>,

    /// A cgroup (version 2) that was delegated to us, for limits of all its processes together; with none they hold for each
    /// process by itself [default: found, or asked of systemd]
    #[arg(long, value_name = "DIR|none", value_hint = ValueHint::DirPath, value_parser = values::cgroup)]
    pub(crate) cgroup: Option<CgroupIn>,
}

/// How much it may use.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits (a tool that the manifest declares can be given less, not more)")]
pub(crate) struct UseUp {
    /// Memory, of all its processes together [default: the tool's, or no limit]
    #[arg(long, value_name = "SIZE", value_parser = values::some_size)]
    pub(crate) memory: Option<u64>,

    /// Processes and threads at a time [default: the tool's, or 1024]
    #[arg(long, value_name = "N", value_parser = values::count)]
    pub(crate) pids: Option<u32>,

    /// A share of processors: 0.5 is half of one [default: the tool's, or no limit]
    #[arg(long, value_name = "X", value_parser = values::share)]
    pub(crate) cpus: Option<f64>,

    /// Time on processors, in all [default: the tool's, or no limit]
    #[arg(long, value_name = "TIME", value_parser = values::some_time)]
    pub(crate) cpu_time: Option<Duration>,

    /// The largest file it may write [default: the tool's, or no limit]
    #[arg(long, value_name = "SIZE", value_parser = values::some_size)]
    pub(crate) file_size: Option<u64>,

    /// Open files of one process [default: the tool's, or 4096]
    #[arg(long, value_name = "N", value_parser = values::count)]
    pub(crate) open_files: Option<u32>,

    /// How much fits into its /tmp, and its /dev/shm [default: the tool's, or 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = values::some_size)]
    pub(crate) tmp_size: Option<u64>,

    /// Files and folders in its /tmp, and in its /dev/shm [default: the tool's, or 100000]
    #[arg(long, value_name = "N", value_parser = values::count)]
    pub(crate) tmp_files: Option<u32>,
}
