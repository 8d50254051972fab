//! Schemas that are written by hand: texts with a format, and Kubernetes' own types, of which a short schema does.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::json;

use crate::contract::{Cause, DIAGNOSTIC_BYTES, DIAGNOSTICS};
use crate::uri;

/// DNS-1123 subdomain, the name of most objects.
pub(crate) const NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// Name of one of our resources: it becomes part of names of pods and services, which are host names.
#[cfg(feature = "kube")]
pub(crate) const OWN_NAME: &str = r"^[a-z]([-a-z0-9]*[a-z0-9])?$";
const LABEL_VALUE: &str = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";
const QUANTITY: &str = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$";
const CONTROLLER: &str = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?$";
const IMAGE: &str = r"^([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:[0-9]{1,5})?/)?[a-z0-9]+((\.|_|__|-+|/)[a-z0-9]+)*(:[A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?(@sha256:[0-9a-f]{64})?$";

pub(crate) fn readable_uri(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": uri::MAX_BYTES, "pattern": uri::READABLE})
}

pub(crate) fn writable_uri(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": uri::MAX_BYTES, "pattern": uri::WRITABLE})
}

pub(crate) fn resource_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 253, "pattern": NAME})
}

pub(crate) fn controller_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 3, "maxLength": 63, "pattern": CONTROLLER})
}

pub(crate) fn image(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 512, "pattern": IMAGE})
}

pub(crate) fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 32, "pattern": QUANTITY})
}

pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

pub(crate) fn cause(_: &mut SchemaGenerator) -> Schema {
    let causes = Cause::CODES.iter().map(|(_, cause)| *cause).chain([Cause::OtherPermanent, Cause::OtherRetryable]);
    json_schema!({"type": "string", "enum": causes.collect::<Vec<_>>()})
}

pub(crate) fn diagnostics(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": DIAGNOSTICS,
        "items": {"type": "object", "required": ["check", "text"], "properties": {
            "check": {"type": "string", "maxLength": DIAGNOSTIC_BYTES, "description": "What was looked at, in a word or two."},
            "text": {"type": "string", "maxLength": DIAGNOSTIC_BYTES, "description": "What was found, in a sentence."},
        }},
    })
}

pub(crate) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE},
    })
}

pub(crate) fn class_weights(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 1024,
        "additionalProperties": {"type": "number", "minimum": 0.000_001, "maximum": 1_000_000.0},
    })
}

pub(crate) fn label_values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": 32,
        "items": {"type": "string", "minLength": 1, "maxLength": 63, "pattern": LABEL_VALUE},
    })
}

pub(crate) fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 16_384},
    })
}

/// An object of Kubernetes' own that [`Open`](crate::open::Open) reads.
pub(crate) fn open_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

pub(crate) fn tolerations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": 64,
        "items": {"type": "object", "properties": {
            "key": {"type": "string", "maxLength": 317},
            "operator": {"type": "string", "enum": ["Exists", "Equal", "Lt", "Gt"]},
            "value": {"type": "string", "maxLength": 63},
            "effect": {"type": "string", "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
            "tolerationSeconds": {"type": "integer", "format": "int64"},
        }},
    })
}

pub(crate) fn env(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": 256,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[-._a-zA-Z][-._a-zA-Z0-9]*$"},
            "value": {"type": "string", "maxLength": 32_768},
            "valueFrom": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }},
    })
}

pub(crate) fn env_from(_: &mut SchemaGenerator) -> Schema {
    let reference = json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 253, "pattern": NAME},
        "optional": {"type": "boolean"},
    }});
    json_schema!({
        "type": "array", "maxItems": 64,
        "items": {"type": "object", "properties": {
            "prefix": {"type": "string", "maxLength": 256},
            "secretRef": reference,
            "configMapRef": reference,
        }},
    })
}

pub(crate) fn references(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": 16,
        "items": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 253, "pattern": NAME},
        }},
    })
}

pub(crate) fn volumes(_: &mut SchemaGenerator) -> Schema {
    open_and_named(64)
}

pub(crate) fn init_containers(_: &mut SchemaGenerator) -> Schema {
    open_and_named(16)
}

/// A list of no more than `most` objects of Kubernetes' own types, each with a name of its own.
fn open_and_named(most: u32) -> Schema {
    json_schema!({
        "type": "array", "maxItems": most,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": {
            "type": "object", "required": ["name"], "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 63, "pattern": NAME}},
        },
    })
}

pub(crate) fn topology_spread_constraints(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": 16,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["topologyKey", "whenUnsatisfiable"],
        "items": {
            "type": "object", "required": ["maxSkew", "topologyKey", "whenUnsatisfiable"],
            "x-kubernetes-preserve-unknown-fields": true,
            "properties": {
                "maxSkew": {"type": "integer", "format": "int32", "minimum": 1},
                "topologyKey": {"type": "string", "minLength": 1, "maxLength": 317},
                "whenUnsatisfiable": {"type": "string", "enum": ["DoNotSchedule", "ScheduleAnyway"]},
            },
        },
    })
}

pub(crate) fn volume_mounts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": 64,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["mountPath"],
        "items": {"type": "object", "required": ["name", "mountPath"], "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 63, "pattern": NAME},
            "mountPath": {"type": "string", "minLength": 1, "maxLength": 4096, "pattern": "^/[^:]*$"},
            "subPath": {"type": "string", "maxLength": 4096},
            "subPathExpr": {"type": "string", "maxLength": 4096},
            "readOnly": {"type": "boolean"},
            "recursiveReadOnly": {"type": "string", "enum": ["Disabled", "IfPossible", "Enabled"]},
            "mountPropagation": {"type": "string", "enum": ["None", "HostToContainer", "Bidirectional"]},
        }},
    })
}

pub(crate) fn resources(_: &mut SchemaGenerator) -> Schema {
    let quantities = json!({
        "type": "object", "maxProperties": 32,
        "additionalProperties": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}], "pattern": QUANTITY, "maxLength": 32},
    });
    json_schema!({"type": "object", "properties": {
        "requests": quantities,
        "limits": quantities,
        "claims": {
            "type": "array", "maxItems": 16,
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 63, "pattern": NAME},
                "request": {"type": "string", "maxLength": 63},
            }},
        },
    }})
}

pub(crate) fn resource_claims(_: &mut SchemaGenerator) -> Schema {
    let reference = json!({"type": "string", "minLength": 1, "maxLength": 253, "pattern": NAME});
    json_schema!({
        "type": "array", "maxItems": 16,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 63, "pattern": NAME},
            "resourceClaimName": reference,
            "resourceClaimTemplateName": reference,
        }},
    })
}

pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": 16,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object", "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "minLength": 1, "maxLength": 316, "description": "What is true, false or unknown."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", "description": "Why, in a word."},
                "message": {"type": "string", "maxLength": 32_768, "description": "Why, in a sentence."},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            },
        },
    })
}

/// What a pattern stands for, in words.
#[cfg(feature = "kube")]
pub(crate) struct Format {
    pub(crate) what: &'static str,
    pub(crate) example: &'static str,
}

/// The words for the patterns of this file.
#[cfg(feature = "kube")]
pub(crate) fn format_of(pattern: &str) -> Option<Format> {
    let (what, example) = match pattern {
        OWN_NAME => (
            "a name that pods can have",
            "Names have a-z, 0-9 and -, begin with a letter and end with a letter or digit",
        ),
        NAME => ("a name", "Names have a-z, 0-9, - and ., and begin and end with a letter or digit"),
        LABEL_VALUE => {
            ("a label's value", "Values have letters, digits, -, _ and ., and begin and end with a letter or digit")
        }
        QUANTITY => ("a quantity", "Such as 2, 500m or 8Gi"),
        IMAGE => ("an image", "Such as registry.example/team/trainer:1.2"),
        CONTROLLER => ("the name of a controller", "Such as kueue.x-k8s.io/multikueue"),
        _ => return None,
    };
    Some(Format { what, example })
}
