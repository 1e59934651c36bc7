//! Converts values to and from JSON without losing their types. `peer/values.py` describes the form.

use std::fmt::Write;

use channel_layer::{Map, Message, Value};
use serde_json::{Value as Json, json};

pub fn to_json(value: &Value) -> Json {
    match value {
        Value::None => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Float(value) => json!({"float": hex(&value.to_be_bytes())}),
        Value::Text(value) => json!(&**value),
        Value::Bytes(value) => json!({"bytes": hex(value)}),
        Value::List(values) => values.iter().map(to_json).collect(),
        Value::Map(map) => map_to_json(map),
    }
}

pub fn message_to_json(message: &Message) -> Json {
    map_to_json(message.map())
}

pub fn from_json(json: Json) -> Value {
    match json {
        Json::Null => Value::None,
        Json::Bool(value) => value.into(),
        Json::Number(value) => value.as_i64().expect("floats are encoded as objects").into(),
        Json::String(value) => value.into(),
        Json::Array(values) => Value::list(values.into_iter().map(from_json)),
        Json::Object(object) => {
            let (kind, inside) = object.into_iter().next().expect("an object has one member");
            match kind.as_str() {
                "float" => f64::from_be_bytes(unhex(&inside).try_into().unwrap()).into(),
                "bytes" => unhex(&inside).into(),
                _ => pairs(inside).collect::<Map>().into(),
            }
        }
    }
}

fn map_to_json(map: &Map) -> Json {
    let pairs = map.iter().map(|(key, value)| json!([key, to_json(value)]));
    json!({"map": pairs.collect::<Json>()})
}

fn pairs(list: Json) -> impl Iterator<Item = (String, Value)> {
    let pairs: Vec<(String, Json)> = serde_json::from_value(list).expect("the keys of maps are text");
    pairs.into_iter().map(|(key, value)| (key, from_json(value)))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String accepts every text");
    }
    text
}

fn unhex(text: &Json) -> Vec<u8> {
    let digits = text.as_str().expect("bytes are hexadecimal").as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}
