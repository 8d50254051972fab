//! The OpenAPI document of this server, with the names of its models.

use serde_json::{Map, Value, json};

use crate::serve::app::App;
use crate::serve::models::Served;
use crate::serve::protocol::HEADER_LENGTH;

/// What the addresses take and answer.
pub(super) fn document(app: &App) -> Value {
    let models: Vec<&str> = app.models().iter().map(|served: &Served| served.name.as_str()).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Trainyard",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Image classifiers by the Open Inference Protocol, version 2. Images may also be posted as they are.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths(app.settings.explain),
        "components": {
            "schemas": schemas(),
            "parameters": {
                "model": {
                    "name": "model", "in": "path", "required": true, "description": "Name of the model.",
                    "schema": {"type": "string", "enum": models},
                },
                "version": {
                    "name": "version", "in": "path", "required": true,
                    "description": "Version of the model: the first 12 digits of its digest.",
                    "schema": {"type": "string", "minLength": 1},
                },
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

fn paths(explain: bool) -> Value {
    let mut paths = Map::new();
    let mut add = |path: &str, method: &str, operation: Value| {
        paths.insert(path.to_owned(), json!({method: operation}));
    };
    let ok = |description: &str, schema: &str| json!({"description": description, "content": {"application/json": {"schema": reference(schema)}}});
    add("/v2", "get", operation("The server", &[], json!({"200": ok("What it is.", "Server")}), &[]));
    add("/v2/health/live", "get", operation("Whether it lives", &[], json!({"200": ok("It does.", "Live")}), &[]));
    let not_ready = ok("It does not: models are being loaded, or it was told to stop.", "Ready");
    let ready = json!({"200": ok("It does.", "Ready"), "503": not_ready});
    add("/v2/health/ready", "get", operation("Whether it answers", &[], ready, &[]));
    for (address, parameters) in
        [("/v2/models/{model}", &["model"][..]), ("/v2/models/{model}/versions/{version}", &["model", "version"])]
    {
        let metadata = json!({"200": ok("Tensors, classes, device.", "Model")});
        add(address, "get", guarded(operation("What a model takes and gives", parameters, metadata, &[400, 404, 503])));
        let config = json!({"200": ok("As Triton's configuration of a model.", "Config")});
        let config = operation("How a model is served", parameters, config, &[400, 404, 503]);
        add(&format!("{address}/config"), "get", guarded(config));
        let statistics = json!({"200": ok("Since the version was loaded.", "Statistics")});
        let statistics = operation("What a model has done", parameters, statistics, &[400, 404, 503]);
        add(&format!("{address}/stats"), "get", guarded(statistics));
        let ready = json!({"200": ok("It does.", "ModelReady")});
        let path = format!("{address}/ready");
        add(&path, "get", operation("Whether a model answers", parameters, ready, &[400, 404, 503]));
        add(&format!("{address}/infer"), "post", guarded(infer(parameters)));
        if explain {
            add(&format!("{address}/explain"), "post", guarded(self::explain(parameters)));
        }
    }
    let statistics = json!({"200": ok("Of each its version's, since it was loaded.", "Statistics")});
    add("/v2/models/stats", "get", guarded(operation("What the models have done", &[], statistics, &[])));
    let index = json!({"200": ok("Name, version and state of each.", "Index")});
    let mut index = guarded(operation("Which models there are", &[], index, &[400, 408, 413, 415, 503]));
    index["requestBody"] = json!({"content": {"application/json": {"schema": reference("IndexRequest")}}});
    add("/v2/repository/index", "post", index);
    let page = json!({"200": {"description": "HTML.", "content": {"text/html": {"schema": {"type": "string"}}}}});
    add("/", "get", operation("A page to try images on", &[], page, &[]));
    let serving = json!({"200": ok("Revision, device, digest.", "Serving")});
    add("/serving", "get", operation("What an operator asks", &[], serving, &[]));
    let metrics = json!({"200": {
        "description": "OpenMetrics.",
        "content": {"application/openmetrics-text": {"schema": {"type": "string"}}},
    }});
    add("/metrics", "get", operation("Figures for Prometheus", &[], metrics, &[500]));
    let openapi = json!({"200": {
        "description": "OpenAPI.", "content": {"application/json": {"schema": {"type": "object"}}},
    }});
    add("/openapi.json", "get", operation("This document", &[], openapi, &[]));
    Value::Object(paths)
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// An operation with these answers and refusals.
fn operation(summary: &str, parameters: &[&str], mut responses: Value, refusals: &[u16]) -> Value {
    for status in refusals {
        let description = match status {
            400 => "The request can't be understood, or an image of it can't be read.",
            401 => "The bearer token is missing or wrong.",
            404 => "There is no such model or version.",
            408 => "The request did not arrive in time.",
            413 => "More bytes, pixels or images than allowed.",
            415 => "Content of a type that isn't read.",
            429 => "Too many images wait: Retry-After says when to try again.",
            503 => "Not yet, or not any more.",
            504 => "There was no answer in time.",
            _ => "The server is at fault.",
        };
        let content = json!({"application/json": {"schema": reference("Error")}});
        responses[status.to_string()] = json!({"description": description, "content": content});
    }
    let parameters: Vec<Value> =
        parameters.iter().map(|name| json!({"$ref": format!("#/components/parameters/{name}")})).collect();
    json!({"summary": summary, "parameters": parameters, "responses": responses})
}

/// The same for those who bear the token, where one is asked for.
fn guarded(mut operation: Value) -> Value {
    operation["security"] = json!([{}, {"token": []}]);
    let refused = json!({"description": "The bearer token is missing or wrong.",
                         "content": {"application/json": {"schema": reference("Error")}}});
    operation["responses"]["401"] = refused;
    operation
}

const REFUSALS: [u16; 9] = [400, 404, 408, 413, 415, 429, 500, 503, 504];

fn body() -> Value {
    let image = json!({"schema": {"type": "string", "format": "binary"}});
    json!({
        "required": true,
        "content": {
            "image/jpeg": image, "image/png": image, "image/bmp": image, "image/gif": image, "image/tiff": image,
            "image/webp": image, "application/octet-stream": image,
            "application/json": {"schema": reference("InferenceRequest")},
        },
    })
}

fn query(name: &str, description: &str, schema: &Value) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": schema})
}

fn with_query(mut operation: Value, query: Value, header: bool) -> Value {
    if let Some(parameters) = operation["parameters"].as_array_mut() {
        parameters.push(query);
        if header {
            parameters.push(json!({
                "name": HEADER_LENGTH, "in": "header",
                "description": "Bytes of the JSON object, where binary tensor data follow it.",
                "schema": {"type": "integer", "minimum": 0},
            }));
        }
    }
    operation["requestBody"] = body();
    operation
}

fn infer(parameters: &[&str]) -> Value {
    let answer = json!({"200": {
        "description": "An image is answered with its classes, an inference request with tensors, with binary data behind the \
                        JSON object if it asks for them.",
        "content": {
            "application/json": {"schema": {"anyOf": [reference("ImageAnswer"), reference("InferenceAnswer")]}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }});
    let top = query(
        "top",
        "How many classes of an image are told: 10 if it is left out.",
        &json!({"type": "integer", "minimum": 0}),
    );
    with_query(operation("What a model says of images", parameters, answer, &REFUSALS), top, true)
}

fn explain(parameters: &[&str]) -> Value {
    let answer = json!({"200": {
        "description": "The image with the heat map over it, or the heat map as a tensor where JSON is asked for.",
        "content": {
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"schema": reference("Explanation")},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }});
    let class = query(
        "class",
        "Which class is looked for, by name or index: the decision if it is left out.",
        &json!({"type": "string"}),
    );
    with_query(operation("Where in an image a class is seen", parameters, answer, &REFUSALS), class, true)
}

fn object(required: &[&str], properties: &Value) -> Value {
    json!({"type": "object", "required": required, "properties": properties})
}

fn schemas() -> Value {
    let (text, number, flag) = (json!({"type": "string"}), json!({"type": "number"}), json!({"type": "boolean"}));
    let whole = json!({"type": "integer"});
    let list = |items: &Value| json!({"type": "array", "items": items});
    let described =
        object(&["name", "datatype", "shape"], &json!({"name": text, "datatype": text, "shape": list(&whole)}));
    let configured =
        object(&["name", "data_type", "dims"], &json!({"name": text, "data_type": text, "dims": list(&whole)}));
    let statistics = object(
        &["name", "version", "inference_count", "execution_count", "inference_stats"],
        &json!({"name": text, "version": text, "last_inference": whole, "inference_count": whole,
               "execution_count": whole, "inference_stats": {"type": "object"},
               "batch_stats": list(&json!({"type": "object"}))}),
    );
    let class =
        object(&["label", "class", "probability"], &json!({"label": text, "class": whole, "probability": number}));
    let output = object(
        &["name", "datatype", "shape"],
        &json!({"name": text, "datatype": text, "shape": list(&whole), "data": {"type": "array"}, "parameters": {"type": "object"}}),
    );
    let answered = json!({"model_name": text, "model_version": text, "id": text, "outputs": list(&output)});
    let mut explained = answered.clone();
    for (name, schema) in [("label", &text), ("class", &whole), ("probability", &number)] {
        explained[name] = schema.clone();
    }
    json!({
        "Error": object(&["error"], &json!({"error": text})),
        "Server": object(
            &["name", "version", "extensions"],
            &json!({"name": text, "version": text, "extensions": list(&text), "models": list(&text), "device": text,
                   "device_reason": text}),
        ),
        "Live": object(&["live"], &json!({"live": flag})),
        "Ready": object(&["ready"], &json!({"ready": flag})),
        "ModelReady": object(&["name", "ready"], &json!({"name": text, "ready": flag})),
        "Serving": object(
            &["contractVersion", "revision", "ready", "device"],
            &json!({"contractVersion": whole, "revision": whole, "ready": flag, "device": text, "deviceReason": text,
                   "heldUp": text, "digest": text}),
        ),
        "Model": object(
            &["name", "versions", "platform", "inputs", "outputs"],
            &json!({"name": text, "versions": list(&text), "platform": text, "inputs": list(&described),
                   "outputs": list(&described), "classes": list(&text), "threshold": number, "digest": text,
                   "architecture": text, "device": text, "device_reason": text, "explain": flag}),
        ),
        "Config": object(
            &["name", "platform", "max_batch_size", "input", "output"],
            &json!({"name": text, "platform": text, "max_batch_size": whole, "default_model_filename": text,
                   "input": list(&configured), "output": list(&configured), "dynamic_batching": {"type": "object"},
                   "instance_group": list(&json!({"type": "object"})), "version_policy": {"type": "object"}}),
        ),
        "Statistics": object(&["model_stats"], &json!({"model_stats": list(&statistics)})),
        "IndexRequest": object(&[], &json!({"ready": flag})),
        "Index": list(&object(
            &["name", "version", "state", "reason"],
            &json!({"name": text, "version": text, "state": text, "reason": text}),
        )),
        "ImageAnswer": object(
            &["model_name", "model_version", "label", "class", "probability", "classes"],
            &json!({"model_name": text, "model_version": text, "label": text, "class": whole, "probability": number,
                   "threshold": number, "classes": list(&class)}),
        ),
        "InferenceRequest": object(
            &["inputs"],
            &json!({
                "id": text,
                "inputs": list(&object(
                    &["name", "datatype", "shape"],
                    &json!({
                        "name": {"enum": ["image", "input"]}, "datatype": {"enum": ["BYTES", "FP32"]},
                        "shape": list(&json!({"type": "integer", "format": "int64", "minimum": 1})),
                        "data": {"type": "array", "description": "Numbers, or images as base64; nested or flat."},
                        "parameters": object(&[], &json!({"binary_data_size": {"type": "integer", "minimum": 0}})),
                    }),
                )),
                "outputs": list(&object(
                    &["name"],
                    &json!({
                        "name": {"enum": ["label", "class", "probabilities", "logits"]},
                        "parameters": object(&[], &json!({"binary_data": flag,
                                                         "classification": {"type": "integer", "minimum": 0}})),
                    }),
                )),
                "parameters": object(&[], &json!({"binary_data_output": flag})),
            }),
        ),
        "InferenceAnswer": object(&["model_name", "model_version", "outputs"], &answered),
        "Explanation": object(&["model_name", "model_version", "label", "class", "probability", "outputs"], &explained),
    })
}
