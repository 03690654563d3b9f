//! The first JSON value that satisfies a schema, for the everyday part of JSON Schema.

use serde_json::{Map, Value};

/// Deepest nesting that is followed: a schema of references cannot loop here, only be deep.
const DEPTH_MAX: usize = 32;

/// An instance of `schema`; among the values of an `enum` the first whose words all occur in
/// `text`, else the first.
///
/// # Errors
/// Names the keyword or form that is not understood.
pub(super) fn first_instance(schema: &Value, text: &str) -> Result<Value, String> {
    instance(schema, &words(text), 0)
}

fn instance(schema: &Value, text: &[String], depth: usize) -> Result<Value, String> {
    if depth > DEPTH_MAX {
        return Err(format!("nested deeper than {DEPTH_MAX}"));
    }
    let Some(schema) = schema.as_object() else {
        if *schema == Value::Bool(true) {
            return Ok(Value::Null);
        }
        return Err(format!("{schema} is not a schema"));
    };
    for keyword in ["$ref", "allOf", "not", "if", "pattern", "format"] {
        if schema.contains_key(keyword) {
            return Err(format!(
                "the echo engine does not know the keyword {keyword}"
            ));
        }
    }
    if let Some(value) = schema.get("const") {
        return Ok(value.clone());
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        let named = values.iter().find(|value| {
            let needed = value.as_str().map(words).unwrap_or_default();
            !needed.is_empty() && needed.iter().all(|word| text.contains(word))
        });
        return named
            .or_else(|| values.first())
            .cloned()
            .ok_or_else(|| "an empty enum".to_owned());
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(first) = schema.get(choice).and_then(|choice| choice.get(0)) {
            return instance(first, text, depth + 1);
        }
    }
    let kind = match schema.get("type") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(Value::Array(kinds)) => kinds
            .first()
            .and_then(Value::as_str)
            .ok_or("an empty list of types")?,
        Some(other) => return Err(format!("type {other}")),
        None if schema.contains_key("properties") => "object",
        None => return Ok(Value::Null),
    };
    let whole = |keyword: &str| schema.get(keyword).and_then(Value::as_u64).unwrap_or(0);
    match kind {
        "null" => Ok(Value::Null),
        "boolean" => Ok(Value::Bool(false)),
        "integer" | "number" => Ok(schema
            .get("minimum")
            .filter(|n| n.is_number())
            .cloned()
            .unwrap_or_else(|| 0.into())),
        "string" => Ok(Value::String("x".repeat(bounded(whole("minLength"))?))),
        "array" => {
            let items = schema.get("items").unwrap_or(&Value::Bool(true));
            let item = || instance(items, text, depth + 1);
            (0..bounded(whole("minItems"))?).map(|_| item()).collect()
        }
        "object" => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let required: Vec<&str> = schema
                .get("required")
                .and_then(Value::as_array)
                .map(|names| names.iter().filter_map(Value::as_str).collect())
                .unwrap_or_default();
            let mut object = Map::new();
            for (name, property) in properties.into_iter().flatten() {
                if required.contains(&name.as_str()) {
                    object.insert(name.clone(), instance(property, text, depth + 1)?);
                }
            }
            match required.iter().find(|name| !object.contains_key(**name)) {
                Some(name) => Err(format!("required property {name:?} has no schema")),
                None => Ok(Value::Object(object)),
            }
        }
        other => Err(format!("type {other:?}")),
    }
}

fn bounded(count: u64) -> Result<usize, String> {
    usize::try_from(count)
        .ok()
        .filter(|count| *count <= 1_000)
        .ok_or_else(|| format!("a minimum of {count} parts"))
}

/// Lower-case words, underscores apart: `card_lost` is named by "lost my card".
fn words(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_enum_value_is_taken_from_the_text_if_it_is_there() {
        let schema = json!({"type": "object", "required": ["label"], "properties":
            {"label": {"enum": ["refund", "card_lost"]}, "note": {"type": "string"}}});
        let label = |text| first_instance(&schema, text).expect("an instance")["label"].clone();
        assert_eq!(label("I have lost my card!"), json!("card_lost"));
        assert_eq!(label("good morning"), json!("refund"));
        assert_eq!(
            first_instance(&schema, "").expect("an instance"),
            json!({"label": "refund"})
        );
    }

    #[test]
    fn every_everyday_type_has_a_first_instance() {
        let schema = json!({"properties": {
            "s": {"type": "string", "minLength": 2}, "n": {"type": "integer", "minimum": 3},
            "a": {"type": "array", "minItems": 1, "items": {"type": "boolean"}},
            "c": {"const": 7}, "u": {"anyOf": [{"type": "null"}, {"type": "string"}]}},
            "required": ["s", "n", "a", "c", "u"]});
        assert_eq!(
            first_instance(&schema, "").expect("an instance"),
            json!({"s": "xx", "n": 3, "a": [false], "c": 7, "u": null})
        );
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let error = first_instance(&json!({"$ref": "#"}), "").expect_err("refused");
        assert!(error.contains("$ref"), "{error}");
    }
}
