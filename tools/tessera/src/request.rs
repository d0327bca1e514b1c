//! From the command line's sampling and conversation arguments to the library's.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use miette::{IntoDiagnostic, Result, WrapErr, miette};
use serde_json::Value;
use tessera_models::chat::{Effort, Setting, Tool};
use tessera_models::generation::{Grammar, Sampling};

use crate::arguments::{EffortName, SamplingArguments, SettingArguments};

impl SamplingArguments {
    /// The library's, but for what depends on the model: stop tokens, and the form of the text.
    pub fn sampling(&self, temperature: f32, seed: u64) -> Result<Sampling> {
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(temperature),
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.iter().copied().collect(),
            seed: self.seed.unwrap_or(seed),
            stop_strings: self.stop.clone(),
            ..Sampling::default()
        };
        // Before anything slow happens; against the model's vocabulary it is checked later.
        sampling.validate(None).into_diagnostic()?;
        Ok(sampling)
    }

    /// The form that the text is to have.
    pub fn grammar(&self) -> Result<Option<Grammar>> {
        if let Some(expression) = &self.regex {
            return Ok(Some(Grammar::Regex(expression.clone())));
        }
        let Some(schema) = &self.json_schema else { return Ok(None) };
        let schema = if schema.trim_start().starts_with('{') {
            serde_json::from_str(schema).into_diagnostic().wrap_err("--json-schema is no JSON")?
        } else {
            read_json(Path::new(schema)).wrap_err("--json-schema is neither a schema nor a file with one")?
        };
        Ok(Some(Grammar::JsonSchema(schema)))
    }
}

impl From<EffortName> for Effort {
    fn from(name: EffortName) -> Self {
        match name {
            EffortName::Low => Self::Low,
            EffortName::Medium => Self::Medium,
            EffortName::High => Self::High,
        }
    }
}

impl SettingArguments {
    /// The library's.
    pub fn setting(&self) -> Result<Setting> {
        Ok(Setting {
            system: self.system.clone(),
            developer: self.developer.clone(),
            effort: self.effort.into(),
            date: Some(self.date.clone().unwrap_or_else(today)),
            tools: self.tools.as_deref().map(tools).transpose()?.unwrap_or_default(),
        })
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).into_diagnostic().wrap_err_with(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).into_diagnostic().wrap_err_with(|| format!("{} is malformed", path.display()))
}

fn tools(path: &Path) -> Result<Vec<Tool>> {
    let list = read_json(path)?;
    let wrong = |what: &str| miette!("{}: {what}", path.display());
    let list = list.as_array().ok_or_else(|| wrong("a list of functions is expected"))?;
    let tool = |(index, entry): (usize, &Value)| {
        // OpenAI's API has each in an object: {"type": "function", "function": {…}}.
        let function = entry.get("function").unwrap_or(entry);
        let text = |field: &str| function.get(field).and_then(Value::as_str).map(str::to_owned);
        let parameters = function.get("parameters").filter(|parameters| !parameters.is_null());
        if parameters.is_some_and(|parameters| !parameters.is_object()) {
            return Err(wrong(&format!("`parameters` of function {index} is no JSON schema")));
        }
        Ok(Tool {
            name: text("name").ok_or_else(|| wrong(&format!("function {index} has no `name`")))?,
            description: text("description").unwrap_or_default(),
            parameters: parameters.cloned(),
        })
    };
    list.iter().enumerate().map(tool).collect()
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A seed that is another each time.
pub fn any_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

/// Today's date in UTC, as 2025-06-28.
fn today() -> String {
    date(now() / 86_400)
}

/// The date so many days after 1970-01-01 (Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn date(days: u64) -> String {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        let cases = [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (20_267, "2025-06-28"),
            (47_540, "2100-02-28"),
        ];
        for (days, wanted) in cases {
            assert_eq!(date(days), wanted);
        }
    }

    #[test]
    fn functions_are_read_in_both_forms() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tools.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            tools(&path)
        };
        let wanted = Tool { name: "f".into(), description: "F.".into(), parameters: None };
        assert_eq!(read(r#"[{"name": "f", "description": "F."}]"#).unwrap(), std::slice::from_ref(&wanted));
        assert_eq!(
            read(r#"[{"type": "function", "function": {"name": "f", "description": "F."}}]"#).unwrap(),
            [wanted]
        );
        for (text, message) in [
            ("{}", "a list of functions"),
            ("[{}]", "function 0 has no `name`"),
            ("[", "malformed"),
            (r#"[{"name": "f", "parameters": 1}]"#, "no JSON schema"),
        ] {
            assert!(format!("{:?}", read(text).unwrap_err()).contains(message), "{text}");
        }
    }
}
