//! Inputs and values against schemas: the manifest's, or those that a tool's own file declares.

use serde_json::Value;
use tool_engine::{Contract, Declared, ErrorKind, ToolError, ToolPhase};

use crate::schema::Schema;

/// The schemas of one tool that are declared from outside.
#[derive(Debug, Clone)]
pub(crate) struct ToolContract {
    pub(crate) tool: String,
    pub(crate) input: Option<Schema>,
    pub(crate) output: Option<Schema>,
}

impl ToolContract {
    /// Whether the input is as the schema from outside has it.
    pub(crate) fn check(&self, input: &Value) -> Result<(), ErrorKind> {
        self.input.as_ref().map_or(Ok(()), |schema| self.fits(schema, input))
    }

    fn fits(&self, schema: &Schema, input: &Value) -> Result<(), ErrorKind> {
        schema.check(input).map_err(|violations| ErrorKind::Invalid {
            subject: format!("input of tool {:?}", self.tool),
            message: violations.to_string(),
            hint: "change the input to what its schema says".into(),
        })
    }
}

impl Contract for ToolContract {
    fn check_input(&self, input: &Value, declared: &Declared) -> Result<(), ErrorKind> {
        // One from outside counts more, and was looked at before.
        let (None, Some(source)) = (&self.input, &declared.input_schema) else { return Ok(()) };
        let schema = Schema::new(source.clone()).map_err(|error| ErrorKind::Invalid {
            subject: format!("tool {:?}", self.tool),
            message: format!("the input schema that its file declares is none: {error}"),
            hint: "correct it in the tool's file".into(),
        })?;
        self.fits(&schema, input)
    }

    fn check_output(&self, value: &Value, declared: &Declared) -> Result<(), Box<ToolError>> {
        let wrong = |message: String| {
            Box::new(ToolError {
                phase: ToolPhase::Result,
                name: "OutputError".into(),
                message,
                stack: None,
                data: None,
            })
        };
        let own = match (&self.output, &declared.output_schema) {
            (None, Some(source)) => Some(Schema::new(source.clone()).map_err(|error| {
                wrong(format!("the output schema that its file declares is none: {error}"))
            })?),
            _ => None,
        };
        let Some(schema) = self.output.as_ref().or(own.as_ref()) else { return Ok(()) };
        schema
            .check(value)
            .map_err(|violations| wrong(format!("it is not what its schema says: {violations}")))
    }
}
