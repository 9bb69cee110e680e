//! All tools that an engine knows.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use tool_engine::{Call, Catalog, ErrorKind, Plan, Protocol, Target, environment};

use crate::{
    bun::Bun,
    tool::{Source, Tool},
    worker,
};

/// The tools that an engine knows, by name.
#[derive(Debug)]
pub struct Tools {
    tools: BTreeMap<String, Tool>,
    bun: Option<Bun>,
    worker_dir: PathBuf,
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
    /// A tool that needs a runtime that was not given.
    #[error(
        "the tool {name:?} runs in Bun, but no Bun was given; name its binary with `Tools::builder().bun(Bun::at(…))`"
    )]
    NoRuntime {
        /// The tool's name.
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
        "the worker script could not be written below {folder:?}: {source}; name another folder with `Tools::builder().worker_dir(…)`"
    )]
    Worker {
        /// Below which folder.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Tools {
    /// Begins a set of tools.
    pub fn builder() -> ToolsBuilder {
        ToolsBuilder { tools: Vec::new(), bun: None, worker_dir: PathBuf::from("/tmp") }
    }

    /// The names of all tools, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tools.keys().map(String::as_str)
    }

    fn get(&self, name: &str) -> Result<&Tool, ErrorKind> {
        self.tools.get(name).ok_or_else(|| {
            let known: Vec<_> = self.names().collect();
            ErrorKind::Invalid {
                subject: format!("tool {name:?}"),
                message: "there is no tool with this name".into(),
                hint: match known[..] {
                    [] => "no tools are declared".into(),
                    _ => format!("there are: {}", known.join(", ")),
                },
            }
        })
    }

    fn plan(&self, tool: &Tool) -> Result<Plan, ErrorKind> {
        match &tool.source {
            Source::Command(words) => {
                let mut words = words.iter().cloned();
                let mut plan = Plan::new(words.next().unwrap_or_default(), Protocol::Stdio);
                plan.args = words.collect();
                Ok(plan)
            }
            Source::Script { entry, export } => {
                let entry = self.entry(tool, entry)?;
                let bun = self.bun.as_ref().ok_or_else(|| no_runtime(&tool.name))?;
                // Looked for at each call: what cleans up temporary folders may have taken it.
                let worker =
                    worker::JAVASCRIPT.install(&self.worker_dir).map_err(|error| ErrorKind::Lost {
                        reason: format!("the worker script is gone and cannot be written again: {error}"),
                    })?;
                Ok(bun.plan(&worker, tool, &entry, export.as_deref()))
            }
        }
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

fn no_runtime(name: &str) -> ErrorKind {
    ErrorKind::Invalid {
        subject: format!("tool {name:?}"),
        message: "it runs in Bun, and no Bun was given".into(),
        hint: "install it (`npm install bun`) and name its binary".into(),
    }
}

impl Catalog for Tools {
    fn resolve(&self, call: &Call) -> Result<Plan, ErrorKind> {
        let Target::Tool(name) = call.target() else {
            return Err(ErrorKind::Invalid {
                subject: "call".into(),
                message: "it is of a command, which no catalog knows".into(),
                hint: "give it to an engine as it is".into(),
            });
        };
        let tool = self.get(name)?;
        let mut plan = self.plan(tool)?;
        plan.env.extend(tool.env.iter().cloned());
        plan.workdir.clone_from(&tool.workdir);
        plan.limits = tool.limits.clone();
        Ok(plan)
    }
}

/// Collects [`Tools`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ToolsBuilder {
    tools: Vec<Tool>,
    bun: Option<Bun>,
    worker_dir: PathBuf,
}

impl ToolsBuilder {
    /// Adds a tool.
    pub fn tool(mut self, tool: Tool) -> Self {
        self.tools.push(tool);
        self
    }

    /// The Bun that runs tools in JavaScript and TypeScript.
    pub fn bun(mut self, bun: Bun) -> Self {
        self.bun = Some(bun);
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
            .map_err(|source| ToolsError::Worker { folder: self.worker_dir.clone(), source })?;
        let mut tools = BTreeMap::new();
        for tool in self.tools {
            let name = tool.name.clone();
            if !is_name(&name) {
                return Err(ToolsError::Name { name });
            }
            match &tool.source {
                Source::Command(words) if words.is_empty() => return Err(ToolsError::EmptyCommand { name }),
                Source::Script { .. } if self.bun.is_none() => return Err(ToolsError::NoRuntime { name }),
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
        if self.bun.is_some() {
            worker::JAVASCRIPT
                .install(&self.worker_dir)
                .map_err(|source| ToolsError::Worker { folder: self.worker_dir.clone(), source })?;
        }
        Ok(Tools { tools, bun: self.bun, worker_dir: self.worker_dir })
    }
}

/// `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`: what MCP, URLs, file names and command lines can all carry.
fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
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
        assert!(matches!(build(vec![Tool::bun("a", "a.ts")]), Err(ToolsError::NoRuntime { .. })));
        assert!(matches!(
            build(vec![Tool::command("a", Vec::<String>::new())]),
            Err(ToolsError::EmptyCommand { .. })
        ));
        let preload = Tool::command("a", ["true"]).env("LD_PRELOAD", "x");
        assert!(matches!(build(vec![preload]), Err(ToolsError::Environment { .. })));
    }

    #[test]
    fn an_unknown_name_is_answered_with_those_there_are() {
        let tools = build(vec![Tool::command("a", ["true"]), Tool::command("b", ["true"])]).unwrap();
        let error = tools.resolve(&Call::tool("c", 1)).unwrap_err().to_string();
        assert!(error.contains("\"c\"") && error.contains("a, b"), "{error}");
    }
}
