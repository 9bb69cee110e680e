//! The settings that `[defaults]` and a tool have in common.

use std::{path::PathBuf, time::Duration};

use tool_engine::{
    AfterExit, ErrorKind, Level, Limits, Network, Overflow, Policy, ResourceLimits, Retry, Tmpfs, environment,
};

use super::{
    hints::Warm,
    paths,
    quantity::{
        after_exit, count, level, network, overflow, share, size, time, time_or_zero, tmpfs, user, warm,
    },
    reader::{Item, Source, Table, boolean, path, string},
};

type Maybe<T> = Option<Item<T>>;
type Names = Option<Item<Vec<Item<String>>>>;
type Paths = Option<Vec<Item<PathBuf>>>;
type Folders = Option<Vec<Item<Tmpfs>>>;

/// What is set, and where. What is not set is taken from the layer below, key by key.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    timeout: Maybe<Duration>,
    max_timeout: Maybe<Duration>,
    idle: Maybe<Duration>,
    kill_grace: Maybe<Duration>,
    after_exit: Maybe<AfterExit>,
    drain: Maybe<Duration>,
    overflow: Maybe<Overflow>,
    memory: Maybe<u64>,
    pids: Maybe<u32>,
    cpus: Maybe<f64>,
    cpu_time: Maybe<Duration>,
    file_size: Maybe<u64>,
    open_files: Maybe<u32>,
    tmp_size: Maybe<u64>,
    tmp_files: Maybe<u32>,
    stdout: Maybe<u64>,
    stderr: Maybe<u64>,
    message: Maybe<u64>,
    network: Maybe<Network>,
    ro: Paths,
    rw: Paths,
    hide: Paths,
    tmpfs: Folders,
    user: Maybe<u32>,
    level: Maybe<Level>,
    pub(super) env: Vec<(String, Item<String>)>,
    pub(super) env_pass: Names,
    attempts: Maybe<u32>,
    backoff: Maybe<Duration>,
    max_backoff: Maybe<Duration>,
    jitter: Maybe<bool>,
    retry_on: Names,
    retry_deadline: Maybe<Duration>,
    retry: Option<usize>,
    warm: Maybe<Warm>,
    workdir: Maybe<PathBuf>,
}

impl Settings {
    /// Those of a tool.
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        Self {
            max_timeout: table.read("max_timeout", time),
            env_pass: names(table, "env_pass"),
            warm: table.read("warm", warm),
            ..Self::of_a_call(table)
        }
    }

    /// Those that a call can have, too.
    pub(super) fn of_a_call(table: &mut Table<'_>) -> Self {
        let mut settings = Self {
            timeout: table.read("timeout", time),
            idle: table.read("idle", time),
            kill_grace: table.read("kill_grace", time_or_zero),
            after_exit: table.read("after_exit", after_exit),
            drain: table.read("drain", time_or_zero),
            overflow: table.read("overflow", overflow),
            ..Self::default()
        };
        let folder = table.source.folder;
        settings.workdir = table
            .read("workdir", path)
            .map(|item| Item { value: paths::absolute(folder, &item.value), at: item.at });
        settings.limits(table);
        settings.policy(table);
        settings.env(table);
        settings.retry(table);
        settings
    }

    fn limits(&mut self, table: &mut Table<'_>) {
        let Some(mut limits) = table.table("limits") else { return };
        self.memory = limits.read("memory", size);
        self.pids = limits.read("pids", count);
        self.cpus = limits.read("cpus", share);
        self.cpu_time = limits.read("cpu_time", time);
        self.file_size = limits.read("file_size", size);
        self.open_files = limits.read("open_files", count);
        self.tmp_size = limits.read("tmp_size", size);
        self.tmp_files = limits.read("tmp_files", count);
        self.stdout = limits.read("stdout", size);
        self.stderr = limits.read("stderr", size);
        self.message = limits.read("message", size);
        limits.finish();
    }

    fn policy(&mut self, table: &mut Table<'_>) {
        let Some(mut policy) = table.table("policy") else { return };
        self.network = policy.read("network", network);
        self.level = policy.read("level", level);
        self.ro = path_list(&mut policy, "ro");
        self.rw = path_list(&mut policy, "rw");
        self.hide = path_list(&mut policy, "hide");
        self.tmpfs = folder_list(&mut policy);
        self.user = policy.read("user", user);
        policy.finish();
    }

    fn env(&mut self, table: &mut Table<'_>) {
        let Some(env) = table.table("env") else { return };
        for (name, key, value) in env.entries() {
            match value.get_ref() {
                // The engine's own check speaks of NUL.
                toml::de::DeValue::String(text) => {
                    if variable(&table.source, key, name, text) {
                        let item = Item { value: text.as_ref().to_owned(), at: key };
                        self.env.push((name.to_owned(), item));
                    }
                }
                other => {
                    let (message, hint) = string(other).err().unwrap_or_default();
                    table.source.say(value.span().start, format!("{}.{name}: {message}", env.name), hint);
                }
            }
        }
    }

    fn retry(&mut self, table: &mut Table<'_>) {
        let Some(mut retry) = table.table("retry") else { return };
        self.attempts = retry.read("attempts", count);
        self.backoff = retry.read("backoff", time);
        self.max_backoff = retry.read("max_backoff", time);
        self.jitter = retry.read("jitter", boolean);
        self.retry_on = endings(&mut retry);
        self.retry_deadline = retry.read("deadline", time);
        // What was refused has been spoken of, so it does not count as missing.
        self.retry = if retry.has("attempts") { None } else { Some(retry.at) };
        retry.finish();
    }

    /// These settings, with `below` where they say nothing.
    pub(super) fn over(self, below: &Settings) -> Settings {
        let mut env: Vec<_> = below.env.clone();
        for (name, item) in self.env {
            match env.iter_mut().find(|(known, _)| *known == name) {
                Some(known) => known.1 = item,
                None => env.push((name, item)),
            }
        }
        macro_rules! over {
            ($($key:ident),*) => { Settings { $($key: self.$key.or_else(|| below.$key.clone()),)* env } };
        }
        over!(
            timeout,
            max_timeout,
            idle,
            kill_grace,
            after_exit,
            drain,
            overflow,
            memory,
            pids,
            cpus,
            cpu_time,
            file_size,
            open_files,
            tmp_size,
            tmp_files,
            stdout,
            stderr,
            message,
            network,
            ro,
            rw,
            hide,
            tmpfs,
            user,
            level,
            env_pass,
            attempts,
            backoff,
            max_backoff,
            jitter,
            retry_on,
            retry_deadline,
            retry,
            warm,
            workdir
        )
    }

    /// Notes what contradicts itself.
    pub(super) fn check(&self, source: &Source<'_>) {
        if let (Some(timeout), Some(max)) = (&self.timeout, &self.max_timeout)
            && timeout.value > max.value
        {
            let message =
                format!("timeout: {} is more than max_timeout, {}", shown(timeout.value), shown(max.value));
            source.say(timeout.at, message, "lower the one or raise the other");
        }
        if let (Some(backoff), Some(max)) = (&self.backoff, &self.max_backoff)
            && backoff.value > max.value
        {
            let message = format!(
                "retry.backoff: {} is more than retry.max_backoff, {}",
                shown(backoff.value),
                shown(max.value)
            );
            source.say(backoff.at, message, "lower the one or raise the other");
        }
        if let (None, Some(at)) = (&self.attempts, self.retry) {
            source.say(at, "retry: attempts is missing", "say how often it is tried in all: attempts = 3");
        }
        let visible = [("ro", &self.ro), ("rw", &self.rw)];
        for hidden in self.hide.iter().flatten() {
            for (name, paths) in visible {
                if paths.iter().flatten().any(|path| path.value == hidden.value) {
                    let message = format!("policy.hide: {} is also in policy.{name}", hidden.value.display());
                    source.say(hidden.at, message, "a path is shown or hidden, not both");
                }
            }
        }
        for folder in self.tmpfs.iter().flatten() {
            for (name, paths) in [("ro", &self.ro), ("rw", &self.rw), ("hide", &self.hide)] {
                if paths.iter().flatten().any(|path| path.value == folder.value.path) {
                    let shown = folder.value.path.display();
                    let message = format!("policy.tmpfs: {shown} is also in policy.{name}");
                    source.say(
                        folder.at,
                        message,
                        "an empty folder is all there is in its place; name it once",
                    );
                }
            }
        }
        for writable in self.rw.iter().flatten() {
            if self.ro.iter().flatten().any(|path| path.value == writable.value) {
                let message = format!("policy.rw: {} is also in policy.ro", writable.value.display());
                source.say(writable.at, message, "what may be written may be read; leave it out of ro");
            }
        }
    }

    pub(super) fn limits_of_a_call(&self) -> Limits {
        Limits {
            timeout: value(&self.timeout),
            idle_timeout: value(&self.idle),
            kill_grace: value(&self.kill_grace),
            after_exit: value(&self.after_exit),
            drain: value(&self.drain),
            overflow: value(&self.overflow),
            stdout: value(&self.stdout),
            stderr: value(&self.stderr),
            message: value(&self.message),
            ..Limits::default()
        }
    }

    pub(super) fn resources(&self) -> ResourceLimits {
        ResourceLimits {
            memory: value(&self.memory),
            pids: value(&self.pids),
            cpus: value(&self.cpus),
            cpu_time: value(&self.cpu_time),
            file_size: value(&self.file_size),
            open_files: value(&self.open_files),
            tmp_size: value(&self.tmp_size),
            tmp_files: value(&self.tmp_files).map(u64::from),
        }
    }

    pub(super) fn policy_of_a_call(&self) -> Policy {
        let all = |paths: &Paths| paths.iter().flatten().map(|path| path.value.clone()).collect();
        Policy {
            network: value(&self.network),
            ro: all(&self.ro),
            rw: all(&self.rw),
            hide: all(&self.hide),
            tmpfs: self.tmpfs.iter().flatten().map(|folder| folder.value.clone()).collect(),
            user: value(&self.user),
            level: value(&self.level),
            ..Policy::default()
        }
    }

    pub(super) fn max_timeout(&self) -> Option<Duration> {
        value(&self.max_timeout)
    }

    pub(super) fn retries(&self) -> Retry {
        let names =
            |names: &Item<Vec<Item<String>>>| names.value.iter().map(|item| item.value.clone()).collect();
        Retry {
            attempts: value(&self.attempts),
            backoff: value(&self.backoff),
            max_backoff: value(&self.max_backoff),
            jitter: value(&self.jitter),
            on: self.retry_on.as_ref().map(names),
            deadline: value(&self.retry_deadline),
        }
    }

    pub(super) fn warmth(&self) -> Warm {
        value(&self.warm).unwrap_or_default()
    }

    pub(super) fn workdir(&self) -> Option<PathBuf> {
        value(&self.workdir)
    }
}

fn shown(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(time)
}

fn value<T: Clone>(item: &Maybe<T>) -> Option<T> {
    item.as_ref().map(|item| item.value.clone())
}

fn path_list(table: &mut Table<'_>, key: &'static str) -> Paths {
    let source = table.source;
    let list = table.strings(key)?.value;
    let mut paths: Vec<Item<PathBuf>> = Vec::new();
    for Item { value, at } in list {
        if value.trim().is_empty() {
            source.say(at, format!("policy.{key}: a path is empty"), "write \".\" for the manifest's folder");
            continue;
        }
        let value = paths::absolute(source.folder, value.as_ref());
        if paths.iter().any(|known| known.value == value) {
            source.say(at, format!("policy.{key}: {} is there twice", value.display()), "name it once");
        } else {
            paths.push(Item { value, at });
        }
    }
    Some(paths)
}

/// Folders in memory.
fn folder_list(table: &mut Table<'_>) -> Folders {
    let source = table.source;
    let list = table.strings("tmpfs")?.value;
    let mut folders: Vec<Item<Tmpfs>> = Vec::new();
    for Item { value, at } in list {
        let mut folder = match tmpfs(&value) {
            Ok(folder) => folder,
            Err((message, hint)) => {
                source.say(at, format!("policy.tmpfs: {message}"), hint);
                continue;
            }
        };
        folder.path = paths::absolute(source.folder, &folder.path);
        if folders.iter().any(|known| known.value.path == folder.path) {
            let message = format!("policy.tmpfs: {} is there twice", folder.path.display());
            source.say(at, message, "name it once");
        } else {
            folders.push(Item { value: folder, at });
        }
    }
    Some(folders)
}

/// The names of endings after which a call is tried again.
fn endings(table: &mut Table<'_>) -> Names {
    let source = table.source;
    let list = table.strings("on")?;
    for item in &list.value {
        if let Err(ErrorKind::Invalid { message, hint, .. }) = Retry::default().on([&*item.value]).check() {
            source.say(item.at, format!("retry.on: {message}"), hint);
        }
    }
    Some(list)
}

/// The names of variables in a list.
pub(super) fn names(table: &mut Table<'_>, key: &'static str) -> Names {
    let source = table.source;
    let Item { value: list, at } = table.strings(key)?;
    let mut names: Vec<Item<String>> = Vec::new();
    for item in list {
        if !variable(&source, item.at, &item.value, "") {
            continue;
        }
        if names.iter().any(|known| known.value == item.value) {
            source.say(item.at, format!("{key}: {:?} is there twice", item.value), "name it once");
        } else {
            names.push(item);
        }
    }
    Some(Item { value: names, at })
}

/// Whether a variable may be set; notes it where not.
fn variable(source: &Source<'_>, at: usize, name: &str, value: &str) -> bool {
    match environment::check(name, value) {
        Ok(()) => true,
        Err(ErrorKind::Invalid { subject, message, hint }) => {
            source.say(at, format!("{subject}: {message}"), hint);
            false
        }
        Err(other) => {
            source.say(at, other.to_string(), "");
            false
        }
    }
}
