//! What a hostile program declares about itself in its first lines.
//!
//! ```text
//! # must end in: limit memory         the outcomes that will do, with ` or ` between them
//! # limits: memory=64MiB timeout=5s   memory, pids, cpus, cpu_time, file_size, open_files; timeout
//! # policy: rw=workdir network=none   ro, rw, hide: a place below the working folder; network
//! # level: 3                          the least level at which it holds; 3 where nothing is said
//! # needs: x86_64                     what the machine must have
//! # given: port, secret               what it is told, as arguments `name=value`
//! # roles: leave then find            runs in two calls, one after the other; `with`: at the same time
//! # shown by: level 0                 where the program does what it must not; see `ShownBy`
//! # In sentences: what it tries, and what must not happen.
//! ```
//!
//! The first line is the outcome, behind a `#!` line where there is one. A word that is not known is an error.

use std::time::Duration;

use tool_engine::{Level, Network, ResourceLimits};

/// What a program declares.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Header {
    /// Outcomes that will do, as `escape::judge::outcome` words them.
    pub(crate) ends: Vec<String>,
    pub(crate) timeout: Duration,
    pub(crate) resources: ResourceLimits,
    /// Places below the working folder; empty for the folder itself.
    pub(crate) ro: Vec<String>,
    pub(crate) rw: Vec<String>,
    pub(crate) hide: Vec<String>,
    pub(crate) network: Option<Network>,
    pub(crate) level: Level,
    pub(crate) needs: Vec<Need>,
    pub(crate) given: Vec<Given>,
    pub(crate) roles: Roles,
    pub(crate) shown_by: ShownBy,
    /// What it tries.
    pub(crate) about: String,
}

/// What a machine must have for a program to mean anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    X86_64,
}

/// What a program is told about the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Given {
    /// A file beside the working folder.
    Secret,
    /// A port that the suite listens on.
    Port,
    /// A port that the suite takes datagrams on.
    Udp,
    /// A socket that the suite listens on, by path.
    Unix,
    /// The same by an abstract name.
    Abstract,
    /// The suite's own process.
    HostPid,
    /// A FIFO that lives on in whatever is left of the call.
    Leash,
    /// The working folder, which is shown writable.
    Rw,
    /// The working folder, which is shown read-only.
    Ro,
    /// The engine's temporary folder.
    Engine,
    /// A file that appears when it may go on.
    Gate,
}

/// How many calls of a program make the test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Roles {
    One,
    /// One call in the one role, then another in the other.
    Then(String, String),
    /// Both at the same time.
    With(String, String),
}

/// Where it can be seen that a program does what it must not, so that the test of it can fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ShownBy {
    /// `level 0`: as it is, with nothing but a process group around it.
    LevelZero,
    /// `half a sandbox`: in namespaces of its own, with all capabilities. For what would harm the machine.
    HalfASandbox,
    /// `sh SCRIPT`: at level 0 by a shell, in whose script `"$@"` is the program.
    Shell(String),
    /// `hand: WHY AND HOW`.
    Hand,
}

impl Header {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().skip_while(|line| line.starts_with("#!")).map_while(comment);
        let first = lines.next().ok_or("the first line must say `# must end in: …`")?;
        let ends = first.strip_prefix("must end in: ").ok_or("the first line must say `# must end in: …`")?;
        let mut shown_by = None;
        let mut header = Self {
            ends: ends.split(" or ").map(outcome).collect::<Result<_, _>>()?,
            timeout: Duration::from_secs(30),
            resources: ResourceLimits::default(),
            ro: Vec::new(),
            rw: Vec::new(),
            hide: Vec::new(),
            network: None,
            level: Level::NoCgroup,
            needs: Vec::new(),
            given: Vec::new(),
            roles: Roles::One,
            shown_by: ShownBy::Hand,
            about: String::new(),
        };
        for line in lines {
            // What begins with a capital letter is for people, and so is what follows it.
            if !header.about.is_empty() || line.starts_with(|first: char| first.is_uppercase()) {
                header.about.push_str(line);
                header.about.push('\n');
                continue;
            }
            let (word, value) = line.split_once(": ").ok_or_else(|| format!("no `word: value`: {line:?}"))?;
            match word {
                "limits" => value.split(' ').try_for_each(|limit| header.limit(limit))?,
                "policy" => value.split(' ').try_for_each(|rule| header.rule(rule))?,
                "level" => header.level = level(value)?,
                "needs" => header.needs = list(value, need)?,
                "given" => header.given = list(value, given)?,
                "roles" => header.roles = roles(value)?,
                "shown by" => shown_by = Some(how_shown(value)?),
                other => return Err(format!("unknown word {other:?}")),
            }
        }
        header.shown_by =
            shown_by.ok_or("it must say by what it is `shown by` that the test of it can fail")?;
        if header.about.is_empty() {
            return Err("it must say in a sentence what it tries".into());
        }
        Ok(header)
    }

    fn limit(&mut self, limit: &str) -> Result<(), String> {
        let (name, value) = limit.split_once('=').ok_or_else(|| format!("no `name=value`: {limit:?}"))?;
        let resources = &mut self.resources;
        match name {
            "timeout" => self.timeout = duration(value)?,
            "memory" => resources.memory = Some(bytes(value)?),
            "pids" => resources.pids = Some(number(value)?),
            "cpus" => resources.cpus = Some(number(value)?),
            "cpu_time" => resources.cpu_time = Some(duration(value)?),
            "file_size" => resources.file_size = Some(bytes(value)?),
            "open_files" => resources.open_files = Some(number(value)?),
            other => return Err(format!("unknown limit {other:?}")),
        }
        Ok(())
    }

    fn rule(&mut self, rule: &str) -> Result<(), String> {
        match rule.split_once('=') {
            Some(("ro", at)) => self.ro.push(place(at)?),
            Some(("rw", at)) => self.rw.push(place(at)?),
            Some(("hide", at)) => self.hide.push(place(at)?),
            Some(("network", "none")) => self.network = Some(Network::None),
            Some(("network", "host")) => self.network = Some(Network::Host),
            _ => return Err(format!("unknown rule {rule:?}")),
        }
        Ok(())
    }
}

/// The text of a line of comment.
fn comment(line: &str) -> Option<&str> {
    line.strip_prefix("# ")
}

fn outcome(words: &str) -> Result<String, String> {
    let known = match words.split_once(' ') {
        None => matches!(words, "ok" | "timeout"),
        Some(("exit" | "signal", number)) => number.parse::<u8>().is_ok_and(|number| number > 0),
        Some(("limit", name)) => {
            matches!(name, "memory" | "cpu" | "pids" | "file_size" | "output" | "syscall")
        }
        Some(_) => false,
    };
    if known { Ok(words.to_owned()) } else { Err(format!("unknown outcome {words:?}")) }
}

fn list<T>(value: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    value.split(", ").map(parse).collect()
}

fn need(word: &str) -> Result<Need, String> {
    match word {
        "x86_64" => Ok(Need::X86_64),
        other => Err(format!("unknown need {other:?}")),
    }
}

fn given(word: &str) -> Result<Given, String> {
    Ok(match word {
        "secret" => Given::Secret,
        "port" => Given::Port,
        "udp" => Given::Udp,
        "unix" => Given::Unix,
        "abstract" => Given::Abstract,
        "host-pid" => Given::HostPid,
        "leash" => Given::Leash,
        "rw" => Given::Rw,
        "ro" => Given::Ro,
        "engine" => Given::Engine,
        "gate" => Given::Gate,
        other => return Err(format!("nobody is given {other:?}")),
    })
}

fn roles(value: &str) -> Result<Roles, String> {
    match value.split(' ').collect::<Vec<_>>()[..] {
        [first, "then", second] => Ok(Roles::Then(first.into(), second.into())),
        [one, "with", other] => Ok(Roles::With(one.into(), other.into())),
        _ => Err(format!("no roles: {value:?}")),
    }
}

fn how_shown(value: &str) -> Result<ShownBy, String> {
    match value {
        "level 0" => Ok(ShownBy::LevelZero),
        "half a sandbox" => Ok(ShownBy::HalfASandbox),
        _ if value.starts_with("hand: ") => Ok(ShownBy::Hand),
        _ => match value.strip_prefix("sh ") {
            Some(script) if script.contains("\"$@\"") => Ok(ShownBy::Shell(script.into())),
            Some(script) => Err(format!("the script does not run the program, \"$@\": {script:?}")),
            None => Err(format!("nothing is shown by {value:?}")),
        },
    }
}

fn place(value: &str) -> Result<String, String> {
    match value.strip_prefix("workdir") {
        Some("") => Ok(String::new()),
        Some(inside) if inside.starts_with('/') => Ok(inside[1..].to_owned()),
        _ => Err(format!("only what is in `workdir` can be named: {value:?}")),
    }
}

fn level(value: &str) -> Result<Level, String> {
    value.parse().ok().and_then(Level::from_number).ok_or_else(|| format!("no level: {value:?}"))
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("no number: {value:?}"))
}

fn bytes(value: &str) -> Result<u64, String> {
    [("KiB", 10), ("MiB", 20), ("GiB", 30)]
        .iter()
        .find_map(|(unit, shift)| Some((value.strip_suffix(unit)?, shift)))
        .ok_or_else(|| format!("no size: {value:?}"))
        .and_then(|(digits, shift)| Ok(number::<u64>(digits)? << shift))
}

fn duration(value: &str) -> Result<Duration, String> {
    match (value.strip_suffix("ms"), value.strip_suffix('s')) {
        (Some(digits), _) => Ok(Duration::from_millis(number(digits)?)),
        (None, Some(digits)) => Ok(Duration::from_secs(number(digits)?)),
        (None, None) => Err(format!("no duration: {value:?}")),
    }
}

#[test]
fn everything_that_can_be_declared_is_read() {
    let text = "#!/bin/sh\n# must end in: exit 3 or limit file_size\n\
        # limits: memory=64MiB pids=32 cpus=0.5 cpu_time=2s file_size=1KiB open_files=9 timeout=1500ms\n\
        # policy: ro=workdir rw=workdir/a hide=workdir/a/b network=host\n# level: 4\n# needs: x86_64\n\
        # given: leash, host-pid\n# roles: leave then find\n# shown by: sh ulimit -n 9; exec \"$@\"\n\
        # It tries: this.\n# lower case goes on.\n\ntrue # level: 9\n";
    let header = Header::parse(text).unwrap();
    let expected = Header {
        ends: vec!["exit 3".into(), "limit file_size".into()],
        timeout: Duration::from_millis(1500),
        resources: ResourceLimits {
            memory: Some(64 << 20),
            pids: Some(32),
            cpus: Some(0.5),
            cpu_time: Some(Duration::from_secs(2)),
            file_size: Some(1024),
            open_files: Some(9),
            ..ResourceLimits::default()
        },
        ro: vec![String::new()],
        rw: vec!["a".into()],
        hide: vec!["a/b".into()],
        network: Some(Network::Host),
        level: Level::Full,
        needs: vec![Need::X86_64],
        given: vec![Given::Leash, Given::HostPid],
        roles: Roles::Then("leave".into(), "find".into()),
        shown_by: ShownBy::Shell("ulimit -n 9; exec \"$@\"".into()),
        about: "It tries: this.\nlower case goes on.\n".into(),
    };
    assert_eq!(header, expected);
}

#[test]
fn what_is_not_known_is_an_error() {
    let good = "# must end in: ok\n# shown by: level 0\n# It tries.\n";
    assert!(Header::parse(good).is_ok());
    for (old, new) in [
        ("must end in: ok", "must end in: well"),
        ("must end in: ok", "must end in: exit 0"),
        ("must end in: ok", "must end in: limit patience"),
        ("# must end in: ok\n", ""),
        ("# must end in: ok\n", "\n# must end in: ok\n"),
        ("# shown by: level 0\n", ""),
        ("level 0", "level 1"),
        ("level 0", "sh true"),
        ("# It tries.\n", ""),
        ("# It tries.", "# limit: pids=9\n# It tries."),
        ("# It tries.", "# limits: pids=many\n# It tries."),
        ("# It tries.", "# limits: memory=64\n# It tries."),
        ("# It tries.", "# limits: nice=5\n# It tries."),
        ("# It tries.", "# policy: rw=/etc\n# It tries."),
        ("# It tries.", "# policy: rw=workdirectory\n# It tries."),
        ("# It tries.", "# policy: network=some\n# It tries."),
        ("# It tries.", "# level: 5\n# It tries."),
        ("# It tries.", "# given: everything\n# It tries."),
        ("# It tries.", "# needs: luck\n# It tries."),
        ("# It tries.", "# roles: one two\n# It tries."),
    ] {
        let text = good.replacen(old, new, 1);
        assert!(Header::parse(&text).is_err(), "{text}");
    }
}
