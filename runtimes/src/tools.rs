//! All tools that an engine knows.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tool_engine::{Call, Catalog, ErrorKind, Plan, Protocol, Secret, Target, environment};

use crate::{
    compiled,
    contract::ToolContract,
    manifest::Manifest,
    probe,
    runtime::{Runtime, Version},
    start::{Loader, NODE_TYPESCRIPT, Script},
    tool::{Source, Tool, is_name},
    worker::{self, Worker},
};

/// The tools that an engine knows, by name.
#[derive(Debug)]
pub struct Tools {
    tools: BTreeMap<String, Tool>,
    runtimes: BTreeMap<Runtime, PathBuf>,
    variables: Variables,
    worker_dir: PathBuf,
}

/// Some of them are secrets.
#[derive(Default)]
struct Variables(BTreeMap<String, String>);

impl std::fmt::Debug for Variables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What is wrong with a set of tools.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolsError {
    /// A name that not every surface can carry.
    #[error(
        "{name:?} cannot be a tool's name: begin with a letter or digit, then at most 63 letters, digits, `_`, `.` or `-`"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Two tools of one name.
    #[error("there are two tools with the name {name:?}; rename one of them")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A command without words.
    #[error("the tool {name:?} is an empty command; name a program")]
    EmptyCommand {
        /// The tool's name.
        name: String,
    },
    /// A variable that may not be set.
    #[error("the tool {name:?}: {reason}")]
    Environment {
        /// The tool's name.
        name: String,
        /// Why not.
        reason: Box<ErrorKind>,
    },
    /// The worker could not be written.
    #[error(
        "the worker script could not be written below {folder:?}: {reason}; name another folder with `worker_dir`, which on the command line is TMPDIR"
    )]
    Worker {
        /// Below which folder.
        folder: PathBuf,
        /// Why not.
        reason: io::Error,
    },
}

impl Tools {
    /// Begins a set of tools.
    pub fn builder() -> ToolsBuilder {
        ToolsBuilder {
            tools: Vec::new(),
            runtimes: BTreeMap::new(),
            variables: Variables::default(),
            worker_dir: PathBuf::from("/tmp"),
        }
    }

    /// The names of all tools, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tools.keys().map(String::as_str)
    }

    /// The tool of this name.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with the name that may have been meant.
    pub fn get(&self, name: &str) -> Result<&Tool, ErrorKind> {
        self.tools.get(name).ok_or_else(|| {
            let known: Vec<_> = self.names().collect();
            ErrorKind::Invalid {
                subject: format!("tool {name:?}"),
                message: "there is no tool with this name".into(),
                hint: match (&known[..], nearest(name, &known)) {
                    ([], _) => "no tools are declared".into(),
                    (_, Some(nearest)) => format!("did you mean {nearest:?}?"),
                    _ => format!("there are: {}", known.join(", ")),
                },
            }
        })
    }

    /// The program of a runtime, where one was given. It need not exist.
    pub fn program(&self, runtime: Runtime) -> Option<&Path> {
        self.runtimes.get(&runtime).map(PathBuf::as_path)
    }

    /// The tool's secrets, but for those that the call brings itself.
    fn secrets(&self, tool: &Tool, call: &Call) -> Result<Vec<Secret>, ErrorKind> {
        let wanted = tool.secrets.iter().filter(|name| !call.has_secret(name));
        let given = wanted.map(|name| match self.variables.0.get(name) {
            Some(value) => Secret::new(name, value),
            None => Err(ErrorKind::Invalid {
                subject: format!("tool {:?}", tool.name),
                message: format!("it needs the secret {name}, which was not given"),
                hint: format!(
                    "set the variable {name}, or hand it over with the call (`--secret {name}=FILE`)"
                ),
            }),
        });
        given.collect()
    }

    fn plan(&self, tool: &Tool) -> Result<Plan, ErrorKind> {
        match &tool.source {
            Source::Command(words) => {
                let mut words = words.iter().cloned();
                let mut plan = Plan::new(words.next().unwrap_or_default(), Protocol::Stdio);
                plan.args = words.collect();
                Ok(plan)
            }
            Source::Script { runtime, entry, export } => {
                let entry = self.entry(tool, entry)?;
                let program = self.runtimes.get(runtime).ok_or_else(|| missing(tool, *runtime, &entry))?;
                let worker = Worker::of(*runtime)
                    .map(|worker| self.loader(tool, *runtime, program, &entry, worker))
                    .transpose()?;
                let script = Script {
                    tool,
                    runtime: *runtime,
                    program,
                    entry: &entry,
                    export: export.as_deref(),
                    loader: worker.as_ref(),
                };
                Ok(script.plan())
            }
        }
    }

    /// What loads the tool's file in a runtime that has a worker.
    fn loader(
        &self,
        tool: &Tool,
        runtime: Runtime,
        program: &Path,
        entry: &Path,
        worker: Worker,
    ) -> Result<Loader, ErrorKind> {
        let lost = |error: io::Error| ErrorKind::Lost {
            reason: format!("the worker script is gone and cannot be written again: {error}"),
        };
        // Looked for at each call: what cleans up temporary folders may have taken it.
        let folder = worker::own_folder(&self.worker_dir).map_err(lost)?;
        let version = self.fitting(tool, runtime, program, entry, &folder)?;
        let installed = worker.install(&folder).map_err(lost)?;
        if let (Some(file), Some(_)) = (&installed.compiles, version) {
            compiled::keep(program, file);
        }
        Ok(Loader { worker: installed.start, version, folder })
    }

    /// The version of a runtime, if it can run this file; `None` where that is told by starting it.
    fn fitting(
        &self,
        tool: &Tool,
        runtime: Runtime,
        program: &Path,
        entry: &Path,
        cache: &Path,
    ) -> Result<Option<Version>, ErrorKind> {
        let Some(least) = runtime.least_version() else { return Ok(None) };
        let refuse = |message: String, hint: String| ErrorKind::Invalid {
            subject: format!("tool {:?}", tool.name),
            message,
            hint,
        };
        let version = match probe::version(program, cache) {
            Ok(version) => version,
            // Whether and why it cannot be executed is told by starting it.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
            {
                return Ok(None);
            }
            Err(error) => {
                return Err(refuse(
                    format!("{} does not work as {runtime}: {error}", program.display()),
                    format!("name another binary, or {}", runtime.how_to_get()),
                ));
            }
        };
        if version < least {
            return Err(refuse(
                format!("{} is {runtime} {version}, which is too old", program.display()),
                format!("{least} or newer is needed: {}", runtime.how_to_get()),
            ));
        }
        let typescript = entry.extension().is_some_and(|ending| ending.to_string_lossy().contains("ts"));
        if runtime == Runtime::Node && typescript && version < NODE_TYPESCRIPT {
            return Err(refuse(
                format!("{} is Node.js {version}, which cannot run TypeScript", program.display()),
                format!("run it in Bun or Deno, or install Node.js {NODE_TYPESCRIPT} or newer"),
            ));
        }
        Ok(Some(version))
    }

    fn entry(&self, tool: &Tool, entry: &Path) -> Result<PathBuf, ErrorKind> {
        let fail = |message: String, hint: &str| ErrorKind::Invalid {
            subject: format!("tool {:?}", tool.name),
            message,
            hint: hint.into(),
        };
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => {
                return Err(fail(
                    format!("{} is not a file", entry.display()),
                    "name the file that exports the tool",
                ));
            }
            Err(error) => {
                return Err(fail(
                    format!("cannot read {}: {error}", entry.display()),
                    "check the path; it is relative to the engine's working folder",
                ));
            }
        }
        std::path::absolute(entry).map_err(|error| fail(error.to_string(), "give an absolute path"))
    }
}

/// The known name that is so much like this one that it may be a slip of the pen.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |other: &&str| strsim::damerau_levenshtein(name, other);
    let nearest = known.iter().copied().min_by_key(distance)?;
    (distance(&nearest) <= name.len().div_ceil(3) && distance(&nearest) < name.len()).then_some(nearest)
}

fn missing(tool: &Tool, runtime: Runtime, entry: &Path) -> ErrorKind {
    let others: Vec<_> =
        Runtime::for_file(entry).filter(|other| *other != runtime).map(Runtime::name).collect();
    let instead =
        if others.is_empty() { String::new() } else { format!(", or run it in {}", others.join(" or ")) };
    ErrorKind::Invalid {
        subject: format!("tool {:?}", tool.name),
        message: format!("it runs in {runtime}, which is not there"),
        hint: format!(
            "{}, name its binary (`[runtimes.{}] path` in the manifest, `Tools::builder().runtime(…)`){instead}",
            runtime.how_to_get(),
            runtime.name()
        ),
    }
}

impl Catalog for Tools {
    fn knows(&self, name: &str) -> bool {
        self.tools.contains_key(name)
    }

    fn resolve(&self, call: &Call) -> Result<Plan, ErrorKind> {
        let (Target::Tool(name) | Target::Description(name)) = call.target() else {
            return Err(ErrorKind::Invalid {
                subject: "call".into(),
                message: "it is of a command, which no catalog knows".into(),
                hint: "give it to an engine as it is".into(),
            });
        };
        let tool = self.get(name)?;
        let contract = ToolContract {
            tool: tool.name.clone(),
            input: tool.input_schema.clone(),
            output: tool.output_schema.clone(),
        };
        let is_call = matches!(call.target(), Target::Tool(_));
        if is_call {
            contract.check(call.input())?;
        }
        let mut plan = self.plan(tool)?;
        if is_call {
            plan.secrets = self.secrets(tool, call)?;
        }
        let passed =
            tool.env_pass.iter().filter_map(|name| Some((name.clone(), self.variables.0.get(name)?.clone())));
        plan.env.extend(passed);
        plan.env.extend(tool.env.iter().cloned());
        plan.contract = Some(Arc::new(contract));
        plan.workdir.clone_from(&tool.workdir);
        plan.limits = tool.limits.clone();
        plan.max_timeout = tool.max_timeout;
        plan.policy = tool.policy.clone();
        plan.resources = tool.resources.clone();
        Ok(plan)
    }

    fn memory(&self, call: &Call) -> Option<u64> {
        let (Target::Tool(name) | Target::Description(name)) = call.target() else { return None };
        self.get(name).ok()?.resources.memory
    }
}

/// Collects [`Tools`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ToolsBuilder {
    tools: Vec<Tool>,
    runtimes: BTreeMap<Runtime, PathBuf>,
    variables: Variables,
    worker_dir: PathBuf,
}

impl ToolsBuilder {
    /// Adds a tool.
    pub fn tool(mut self, tool: Tool) -> Self {
        self.tools.push(tool);
        self
    }

    /// Adds the tools of a manifest, and its runtimes.
    pub fn manifest(mut self, manifest: Manifest) -> Self {
        self.tools.extend(manifest.tools);
        self.runtimes.extend(manifest.runtimes);
        self
    }

    /// What tools may be given of the surroundings, which the library does not read itself: only what they name in
    /// `env_pass` and `secrets` is kept, and handed to nobody else.
    pub fn variables(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.variables.0.extend(variables);
        self
    }

    /// The program of a runtime. The library looks for none: it is told.
    pub fn runtime(mut self, runtime: Runtime, program: impl Into<PathBuf>) -> Self {
        self.runtimes.insert(runtime, program.into());
        self
    }

    /// The folder below which the worker script is written, once for all engines of a user. Default `/tmp`: the library
    /// does not read `TMPDIR`.
    pub fn worker_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.worker_dir = folder.into();
        self
    }

    /// The tools.
    ///
    /// # Errors
    /// [`ToolsError`], for the first thing that is wrong.
    pub fn build(mut self) -> Result<Tools, ToolsError> {
        // Tools have other working folders than we.
        self.worker_dir = std::path::absolute(&self.worker_dir)
            .map_err(|reason| ToolsError::Worker { folder: self.worker_dir.clone(), reason })?;
        let mut tools = BTreeMap::new();
        for tool in self.tools {
            let name = tool.name.clone();
            if !is_name(&name) {
                return Err(ToolsError::Name { name });
            }
            match &tool.source {
                Source::Command(words) if words.is_empty() => return Err(ToolsError::EmptyCommand { name }),
                // One whose runtime was not given is refused when it is called: the others can do without.
                Source::Script { .. } | Source::Command(_) => {}
            }
            for (variable, value) in &tool.env {
                environment::check(variable, value).map_err(|reason| ToolsError::Environment {
                    name: name.clone(),
                    reason: Box::new(reason),
                })?;
            }
            if tools.insert(name.clone(), tool).is_some() {
                return Err(ToolsError::Duplicate { name });
            }
        }
        let workers: Vec<_> = self.runtimes.keys().filter_map(|runtime| Worker::of(*runtime)).collect();
        if !workers.is_empty() {
            let folder = worker::own_folder(&self.worker_dir);
            folder
                .and_then(|folder| workers.iter().try_for_each(|worker| worker.install(&folder).map(drop)))
                .map_err(|reason| ToolsError::Worker { folder: self.worker_dir.clone(), reason })?;
        }
        let named = |name: &String| {
            tools.values().any(|tool| tool.env_pass.contains(name) || tool.secrets.contains(name))
        };
        self.variables.0.retain(|name, _| named(name));
        Ok(Tools { tools, runtimes: self.runtimes, variables: self.variables, worker_dir: self.worker_dir })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(tools: Vec<Tool>) -> Result<Tools, ToolsError> {
        tools.into_iter().fold(Tools::builder(), ToolsBuilder::tool).build()
    }

    #[test]
    fn names_are_checked() {
        for name in ["", "-a", ".a", "a b", "a/b", "ä", &"a".repeat(65)] {
            assert!(
                matches!(build(vec![Tool::command(name, ["true"])]), Err(ToolsError::Name { .. })),
                "{name:?}"
            );
        }
        build(vec![Tool::command("a.b-c_9", ["true"]), Tool::command("a".repeat(64), ["true"])]).unwrap();
    }

    #[test]
    fn what_cannot_work_is_refused_before_the_first_call() {
        let twice = vec![Tool::command("a", ["true"]), Tool::command("a", ["true"])];
        assert!(matches!(build(twice), Err(ToolsError::Duplicate { .. })));
        assert!(matches!(
            build(vec![Tool::command("a", Vec::<String>::new())]),
            Err(ToolsError::EmptyCommand { .. })
        ));
        let preload = Tool::command("a", ["true"]).env("LD_PRELOAD", "x");
        assert!(matches!(build(vec![preload]), Err(ToolsError::Environment { .. })));
    }

    #[test]
    fn a_runtime_that_was_not_given_is_asked_for_when_a_tool_needs_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.ts");
        std::fs::write(&file, "").unwrap();
        let tools = build(vec![Tool::script("a", Runtime::Bun, file), Tool::command("b", ["true"])]).unwrap();
        tools.resolve(&Call::tool("b", 1)).unwrap();
        let error = tools.resolve(&Call::tool("a", 1)).unwrap_err().to_string();
        assert!(error.contains("\"a\"") && error.contains("Bun") && error.contains("npm install"), "{error}");
        assert_eq!(tools.program(Runtime::Bun), None);
    }

    #[test]
    fn an_unknown_name_is_answered_with_those_there_are() {
        let tools = build(vec![Tool::command("a", ["true"]), Tool::command("b", ["true"])]).unwrap();
        let error = tools.resolve(&Call::tool("c", 1)).unwrap_err().to_string();
        assert!(error.contains("\"c\"") && error.contains("a, b"), "{error}");
    }
}
