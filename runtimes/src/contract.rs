//! Inputs and values against schemas: the manifest's, or those that a tool's own file declares.

use serde_json::Value;
use tool_engine::{Contract, Declared, ErrorKind, ToolError, ToolPhase};

use crate::schema::{self, Schema};

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
        let schema = own(source).map_err(|reason| ErrorKind::Invalid {
            subject: format!("tool {:?}", self.tool),
            message: format!("the input schema that its file declares is none: {reason}"),
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
            (None, Some(source)) => Some(own(source).map_err(|reason| {
                wrong(format!("the output schema that its file declares is none: {reason}"))
            })?),
            _ => None,
        };
        let Some(schema) = self.output.as_ref().or(own.as_ref()) else { return Ok(()) };
        schema
            .check(value)
            .map_err(|violations| wrong(format!("it is not what its schema says: {violations}")))
    }
}

/// The schema that a tool's own file declares. It is compiled at each call, and nothing ends that half-way.
fn own(source: &Value) -> Result<Schema, String> {
    const MOST: u64 = 100_000;
    if schema::count(source) > MOST {
        return Err(format!("it has more than {MOST} values; declare a smaller one"));
    }
    Schema::new(source.clone()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_would_take_long_to_compile_is_refused() {
        let contract = ToolContract { tool: "a".into(), input: None, output: None };
        let mut declared = Declared::default();
        declared.input_schema = Some(json!({ "enum": vec![1; 100_001] }));
        declared.output_schema.clone_from(&declared.input_schema);
        let error = contract.check_input(&json!(1), &declared).unwrap_err().to_string();
        assert!(error.contains("more than 100000 values; declare a smaller one"), "{error}");
        let error = contract.check_output(&json!(1), &declared).unwrap_err().to_string();
        assert!(error.contains("the output schema") && error.contains("more than 100000 values"), "{error}");
    }
}
