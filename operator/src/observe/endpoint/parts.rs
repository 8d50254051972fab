//! What belongs to an endpoint besides its Deployment, and whether it is as wished.

use serde_json::Value;

/// Fields of an object that are compared with what was wished; the rest is the API server's.
const APPLIED_FIELDS: [&str; 2] = ["metadata", "spec"];

/// Whether an object is there as wished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// It is not there.
    #[default]
    Missing,
    /// It is there and not as wished.
    Differs,
    /// It is there as wished.
    AsWished,
}

/// What belongs to an endpoint besides its Deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The Service.
    pub service: Part,
    /// The disruption budget.
    pub budget: Part,
    /// The autoscaler.
    pub autoscaler: Part,
}

impl Part {
    /// Whether what was seen is what is wished. What the API server or others add to an object is theirs; what was taken out
    /// of the wish since it was applied shows by the annotation that both have.
    pub fn of(seen: Option<&Value>, wished: &Value) -> Part {
        match seen {
            None => Part::Missing,
            Some(seen) if APPLIED_FIELDS.iter().all(|field| has(&seen[*field], &wished[*field])) => Part::AsWished,
            Some(_) => Part::Differs,
        }
    }
}

/// Whether `seen` has all that `wished` says.
fn has(seen: &Value, wished: &Value) -> bool {
    match (seen, wished) {
        (_, Value::Null) => true,
        (Value::Object(seen), Value::Object(wished)) => {
            wished.iter().all(|(name, wish)| has(seen.get(name).unwrap_or(&Value::Null), wish))
        }
        (Value::Array(seen), Value::Array(wished)) => wished.iter().all(|wish| seen.iter().any(|seen| has(seen, wish))),
        (seen, wished) => seen == wished,
    }
}

/// Where a Service's load balancer takes requests: the first host name or address.
pub fn balancer(service: &Value) -> Option<String> {
    let first = service.pointer("/status/loadBalancer/ingress/0")?;
    let text = first["hostname"].as_str().or_else(|| first["ip"].as_str())?;
    Some(if text.contains(':') { format!("[{text}]") } else { text.to_owned() })
}
