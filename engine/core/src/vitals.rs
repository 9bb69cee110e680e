//! What an engine and its process hold at one moment, and what of that is more than at another.

pub(crate) mod watch;

use std::{collections::BTreeMap, fmt, fs, path::Path};

use tokio::runtime::Handle;
use tool_sandbox::{LauncherVitals, ProcessVitals, ZygoteVitals, own_prefix};

/// What this process, and one engine in it, hold at one moment; from [`Engine::vitals`](crate::Engine::vitals). What a
/// machine does not tell is `None`, never 0.
///
/// An engine that has nothing to do holds what it held before it had: [`since`](Self::since) tells what does not go back.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Vitals {
    /// Open descriptors of this process. Those of cgroups and of a sandbox that wait for their next call are not counted: there
    /// are as many as there were calls at once, up to a bound.
    pub fds: Option<u64>,
    /// Threads of this process.
    pub threads: Option<u64>,
    /// Tasks that are alive on the engine's runtime, whosever they are.
    pub tasks: Option<u64>,
    /// Executions of this engine that have not ended, those that wait for their turn included.
    pub executions: u64,
    /// Children of this process that nobody has reaped, zombies included. A sandbox is no child; the keeper of its zygote is.
    pub children: Option<u64>,
    /// Sandboxes of the engine's launcher that were made for a call and not let go of.
    pub sandboxes: u64,
    /// Cgroups of the engine's launcher that a call is in, or that wait for their end.
    pub cgroups: u64,
    /// Cgroups of the engine's launcher that wait for their next call.
    pub pooled_cgroups: u64,
    /// Private folders of calls in the engine's temporary folder, made by this process.
    pub temp_dirs: Option<u64>,
    /// Bytes of events that are held for readers: what counts towards `event_ring` of [`Limits`](crate::Limits).
    pub event_bytes: u64,
    /// What the engine's [registry](crate::Engine::registry) knows: executions that run, and those that have ended and are
    /// kept.
    pub records: u64,
    /// Resident memory of this process in bytes. It goes up and down with load, and some of it stays with the allocator.
    pub rss: Option<u64>,
    /// The processes that make the launcher's sandboxes.
    pub zygotes: Vec<ZygoteVitals>,
    named: Named,
}

/// What stands behind the numbers, so that what is new can be named.
#[derive(Debug, Clone, Default)]
struct Named {
    fds: BTreeMap<u32, String>,
    threads: BTreeMap<u32, String>,
    children: BTreeMap<u32, String>,
    temp_dirs: Vec<String>,
}

/// What an engine knows of itself, beside what its process holds.
#[derive(Debug)]
pub(crate) struct Own<'a> {
    pub(crate) executions: usize,
    pub(crate) event_bytes: u64,
    pub(crate) records: usize,
    pub(crate) launcher: LauncherVitals,
    pub(crate) temp_dir: &'a Path,
}

impl Vitals {
    /// Of this process alone, without an engine: descriptors, threads, children, resident memory, and the tasks of the
    /// runtime that it is called in, if it is. As short as [`Engine::vitals`](crate::Engine::vitals).
    pub fn of_process() -> Self {
        Self::process(Handle::try_current().ok().as_ref())
    }

    fn process(runtime: Option<&Handle>) -> Self {
        let ProcessVitals { fds, threads, children, rss, .. } = ProcessVitals::own();
        Self {
            fds: fds.as_ref().map(|fds| count(fds.len())),
            threads: threads.as_ref().map(|threads| count(threads.len())),
            tasks: runtime.map(|runtime| count(runtime.metrics().num_alive_tasks())),
            children: children.as_ref().map(|children| count(children.len())),
            rss,
            named: Named {
                fds: fds.unwrap_or_default(),
                threads: threads.unwrap_or_default(),
                children: children.unwrap_or_default(),
                temp_dirs: Vec::new(),
            },
            ..Self::default()
        }
    }

    pub(crate) fn of_engine(runtime: &Handle, own: Own<'_>) -> Self {
        let temp_dirs = temp_dirs(own.temp_dir);
        let mut vitals = Self {
            executions: count(own.executions),
            sandboxes: own.launcher.sandboxes,
            cgroups: own.launcher.cgroups,
            pooled_cgroups: own.launcher.pooled_cgroups,
            temp_dirs: temp_dirs.as_ref().map(|folders| count(folders.len())),
            event_bytes: own.event_bytes,
            records: count(own.records),
            zygotes: own.launcher.zygotes,
            ..Self::process(Some(runtime))
        };
        vitals.named.temp_dirs = temp_dirs.unwrap_or_default();
        vitals
    }

    /// What is held now and can be counted, by name. What is pooled up to a bound, and memory, is not among it.
    pub fn rows(&self) -> [(&'static str, Option<u64>); 10] {
        [
            ("fds", self.fds),
            ("threads", self.threads),
            ("tasks", self.tasks),
            ("executions", Some(self.executions)),
            ("children", self.children),
            ("sandboxes", Some(self.sandboxes)),
            ("cgroups", Some(self.cgroups)),
            ("temp dirs", self.temp_dirs),
            ("event bytes", Some(self.event_bytes)),
            ("records", Some(self.records)),
        ]
    }

    /// What of [`rows`](Self::rows) is more than it was at `mark`, and what is new there. What was unknown then, or is now,
    /// is not compared.
    ///
    /// A mark is best taken when the engine has made a call of each kind and has nothing to do: the first calls make what is
    /// kept for the next ones (a zygote, and its keeper).
    pub fn since(&self, mark: &Vitals) -> Growth {
        let rows = self.rows().into_iter().zip(mark.rows());
        let grown = rows.filter_map(|((what, now), (_, before))| {
            let (now, before) = (now?, before?);
            (now > before).then(|| Grown { what, before, now, new: self.new_since(mark, what) })
        });
        Growth(grown.collect())
    }

    fn new_since(&self, mark: &Vitals, what: &str) -> Vec<String> {
        let (before, now) = match what {
            "fds" => (&mark.named.fds, &self.named.fds),
            "threads" => (&mark.named.threads, &self.named.threads),
            "children" => (&mark.named.children, &self.named.children),
            "temp dirs" => {
                let is_new = |name: &&String| !mark.named.temp_dirs.contains(name);
                return self.named.temp_dirs.iter().filter(is_new).cloned().collect();
            }
            _ => return Vec::new(),
        };
        // A number may have been given to something else.
        let is_new = |(id, name): &(&u32, &String)| before.get(id) != Some(name);
        now.iter().filter(is_new).map(|(id, name)| format!("{id} = {name}")).collect()
    }
}

/// What there is more of than at a mark; from [`Vitals::since`]. Shown, it names what is new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Growth(Vec<Grown>);

/// One row of [`Growth`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grown {
    /// Which of [`Vitals::rows`].
    pub what: &'static str,
    /// How much there was at the mark.
    pub before: u64,
    /// How much there is.
    pub now: u64,
    /// What is new, where it has a name: the number of a descriptor and what it is, and alike.
    pub new: Vec<String>,
}

impl Growth {
    /// Whether nothing is more than it was.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is more than it was.
    pub fn rows(&self) -> &[Grown] {
        &self.0
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing has grown");
        }
        for (index, row) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            row.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Grown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// How many are named.
        const MOST: usize = 50;
        let Grown { what, before, now, new } = self;
        write!(f, "{what}: {before} before, {now} now")?;
        if new.is_empty() {
            return Ok(());
        }
        write!(f, "; new: {}", new[..new.len().min(MOST)].join(", "))?;
        match new.len().saturating_sub(MOST) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn temp_dirs(folder: &Path) -> Option<Vec<String>> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    Some(names.filter(|name| name.starts_with(own_prefix())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_names_what_is_new_and_passes_over_what_is_unknown_or_less() {
        let named =
            |names: &[(u32, &str)]| names.iter().map(|(id, name)| (*id, (*name).to_owned())).collect();
        let mark = Vitals {
            fds: Some(2),
            threads: Some(9),
            tasks: None,
            event_bytes: 10,
            named: Named { fds: named(&[(1, "a"), (2, "b")]), ..Named::default() },
            ..Vitals::default()
        };
        let now = Vitals {
            fds: Some(3),
            threads: Some(8),
            tasks: Some(5),
            event_bytes: 12,
            named: Named { fds: named(&[(1, "a"), (2, "c"), (3, "d")]), ..Named::default() },
            ..Vitals::default()
        };
        let growth = now.since(&mark);
        assert_eq!(
            growth.to_string(),
            "fds: 2 before, 3 now; new: 2 = c, 3 = d\nevent bytes: 10 before, 12 now"
        );
        assert!(mark.since(&mark).is_empty());
        assert_eq!(mark.since(&mark).to_string(), "nothing has grown");
    }
}
