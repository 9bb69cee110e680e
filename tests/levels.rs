//! Promises: what a report says is enforced is enforced, at each level that can be asked for, as it is seen from outside of
//! the sandbox and from inside; a call that needs more than there is does not start, and says what is missing; without
//! namespaces, too, a call reaches no files, sockets and processes but its own, and nothing of it lives on.
//!
//! Does not promise: that below level 3 a call is out of sight. It sees the machine's `/proc`, and shares `/tmp` with it.

#[path = "levels/ahead.rs"]
mod ahead;
#[path = "levels/enforced.rs"]
mod enforced;
#[path = "levels/in_place.rs"]
mod in_place;
#[path = "levels/refused.rs"]
mod refused;
#[path = "levels/warm_up.rs"]
mod warm_up;

use std::{ffi::OsStr, path::Path};

use tempfile::TempDir;
use tool_engine::{Call, Level, Network, Policy};

/// All of them.
const LEVELS: [Level; 5] = [Level::None, Level::Basic, Level::NoNamespaces, Level::NoCgroup, Level::Full];

/// A folder for a call to work in. Not in `/tmp`, which below level 3 is everybody's.
fn folder() -> TempDir {
    TempDir::with_prefix_in("run-tool-levels-", "/var/tmp").expect("a temporary folder can be made")
}

/// A script that may write to `folder`, and connect to nobody; at this level or a higher one.
fn python(level: Level, folder: &Path, script: &str, args: &[&dyn AsRef<OsStr>]) -> Call {
    let words = ["/usr/bin/python3", "-S", "-c", script].map(OsStr::new).into_iter();
    Call::command(words.chain(args.iter().map(|arg| (*arg).as_ref()))).workdir(folder).policy(Policy {
        rw: vec![folder.to_owned()],
        network: Some(Network::None),
        level: Some(level),
        ..Policy::default()
    })
}
