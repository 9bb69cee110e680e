//! How a hostile program becomes a call: the one place that knows how containment is asked for.

use std::{ffi::OsString, path::Path, sync::Arc, time::Duration};

use serde_json::Value;
use tool_engine::{
    Call, Catalog, Engine, ErrorKind, Launcher as _, Level, Limits, Network, Plan, Policy, Protocol, Sandbox,
    Target,
};

use super::{
    header::{Given, Header, ShownBy},
    scene::{Scene, programs},
};

/// An engine that contains its calls as well as this machine can.
pub(crate) fn engine(scene: &Scene) -> Engine {
    engine_at(Level::Full, scene)
}

/// An engine that contains its calls at this level, even where there is more.
pub(crate) fn engine_at(highest: Level, scene: &Scene) -> Engine {
    // Whatever dies may take its time on a busy machine; what obeys no signal shall not take ours.
    let long = Some(Duration::from_secs(20));
    let limits = Limits {
        drain: long,
        reap_timeout: long,
        kill_grace: Some(Duration::from_millis(100)),
        stdout: Some(64 << 10),
        stderr: Some(64 << 10),
        ..Limits::default()
    };
    let sandbox = Sandbox::builder().highest(highest).build();
    let builder = Engine::builder().temp_dir(scene.engine()).limits(limits).catalog(Plans).launcher(sandbox);
    builder.build().expect("an engine can be built")
}

/// What this machine can do of that, and what keeps it from more.
pub(crate) fn offered(highest: Level) -> (Level, String) {
    let sandbox = Sandbox::builder().highest(highest).build();
    let level = sandbox.level(&Policy::default()).expect("nothing has run out");
    let missing = sandbox.missing().into_iter().map(|missing| missing.what).collect::<Vec<_>>().join("; ");
    sandbox.close();
    (level, missing)
}

/// A call of the program in this role, contained as it declares.
pub(crate) fn contained(file: &str, header: &Header, role: &str, scene: &Scene) -> Call {
    let mut plan = plan(file, header, role, scene);
    plan.policy.level = Some(header.level);
    Plans::call(plan, header)
}

/// As [`contained`], of a program of the test's own in a folder of its choice.
pub(crate) fn contained_as(header: &Header, scene: &Scene, program: &Path, workdir: &Path) -> Call {
    let mut plan = plan("", header, "only", scene);
    plan.program = program.into();
    plan.args.clear();
    plan.workdir = Some(workdir.to_owned());
    plan.policy.level = Some(header.level);
    Plans::call(plan, header)
}

/// A call of the program in this role where it can do what it tries. `None` where that is not for a suite to do.
pub(crate) fn uncontained(file: &str, header: &Header, role: &str, scene: &Scene) -> Option<Call> {
    let mut plan = plan(file, header, role, scene);
    plan.policy = Policy { level: Some(Level::None), ..Policy::default() };
    plan.resources = tool_engine::ResourceLimits::default();
    let program = plan.program.clone();
    let mut wrap = |words: &[&str]| {
        let before = words[1..].iter().map(OsString::from).chain([program.clone()]);
        plan.args = before.chain(std::mem::take(&mut plan.args)).collect();
        plan.program = words[0].into();
    };
    match &header.shown_by {
        ShownBy::LevelZero => {}
        ShownBy::Shell(script) => wrap(&["sh", "-c", script, "sh"]),
        ShownBy::HalfASandbox => wrap(&[
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--ipc",
            "--uts",
            "--net",
            "--cgroup",
        ]),
        ShownBy::Hand => return None,
    }
    Some(Plans::call(plan, header))
}

fn plan(file: &str, header: &Header, role: &str, scene: &Scene) -> Plan {
    let path = programs().join(file);
    let mut plan = Plan::new("/bin/sh", Protocol::ExitCode);
    if Path::new(file).extension().is_some_and(|extension| extension == "py") {
        plan.program = "/usr/bin/python3".into();
        // No files beside the program, and a start without what is installed on this machine.
        plan.args = vec!["-B".into(), "-S".into()];
    }
    plan.args.push(path.into());
    plan.args.extend(header.given.iter().map(|given| scene.argument(*given)));
    plan.args.push(format!("token={}", scene.token).into());
    plan.args.push(format!("role={role}").into());
    plan.workdir = Some(scene.workdir());
    plan.resources = header.resources.clone();
    let place = |inner: &String| scene.workdir().join(inner);
    plan.policy = Policy {
        network: Some(header.network.unwrap_or(Network::None)),
        ro: header.ro.iter().map(place).chain([programs()]).collect(),
        rw: header.rw.iter().map(place).collect(),
        hide: header.hide.iter().map(place).collect(),
        ..Policy::default()
    };
    if header.given.contains(&Given::Gate) {
        plan.policy.ro.push(scene.gate());
    }
    if header.given.contains(&Given::Leash) {
        plan.policy.rw.push(scene.leash());
    }
    plan
}

/// A catalog in which every call brings its plan along.
#[derive(Debug)]
struct Plans;

impl Plans {
    fn call(plan: Plan, header: &Header) -> Call {
        let number = {
            let mut plans = plans();
            plans.push(Arc::new(plan));
            plans.len() - 1
        };
        Call::tool(number.to_string(), Value::Null).timeout(header.timeout)
    }
}

impl Catalog for Plans {
    fn resolve(&self, call: &Call) -> Result<Plan, ErrorKind> {
        let Target::Tool(number) = call.target() else { unreachable!("only tools are called") };
        let number: usize = number.parse().expect("tools are called by number");
        Ok(Plan::clone(&plans()[number]))
    }
}

fn plans() -> std::sync::MutexGuard<'static, Vec<Arc<Plan>>> {
    static PLANS: std::sync::Mutex<Vec<Arc<Plan>>> = std::sync::Mutex::new(Vec::new());
    PLANS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
