//! The few ONNX messages that the importer writes, as prost types.
//!
//! Field numbers are those of onnx.proto3 (ONNX 1.19, IR version 10). Only what is written is
//! here; a generated file would be forty times as long. Fields are `optional` where ONNX tells
//! absent from zero.

use prost::Message;

/// IR version that goes with opset 22.
pub(super) const IR_VERSION: i64 = 10;
/// The standard operators' version.
pub(super) const OPSET: i64 = 22;
/// Domain of ONNX Runtime's own operators, version 1.
pub(super) const MICROSOFT: &str = "com.microsoft";

/// Element types (`TensorProto.DataType`).
#[derive(Debug, Clone, Copy)]
pub(super) enum ElementType {
    F32 = 1,
    U8 = 2,
    I32 = 6,
    I64 = 7,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelProto {
    #[prost(int64, tag = "1")]
    pub(super) ir_version: i64,
    #[prost(string, tag = "2")]
    pub(super) producer_name: String,
    #[prost(string, tag = "3")]
    pub(super) producer_version: String,
    #[prost(message, optional, tag = "7")]
    pub(super) graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    pub(super) opset_import: Vec<OperatorSet>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OperatorSet {
    #[prost(string, tag = "1")]
    pub(super) domain: String,
    #[prost(int64, tag = "2")]
    pub(super) version: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    pub(super) node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub(super) input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub(super) output: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    pub(super) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) output: Vec<String>,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(string, tag = "4")]
    pub(super) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) attribute: Vec<Attribute>,
    #[prost(string, tag = "7")]
    pub(super) domain: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(float, optional, tag = "2")]
    pub(super) f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub(super) i: Option<i64>,
    /// `AttributeProto.AttributeType`: 1 is float, 2 is int.
    #[prost(int32, tag = "20")]
    pub(super) kind: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    pub(super) dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(super) data_type: i32,
    #[prost(int64, repeated, tag = "7")]
    pub(super) int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "13")]
    pub(super) external_data: Vec<Entry>,
    /// `TensorProto.DataLocation`: 0 is inside this message, 1 in the file `external_data` names.
    #[prost(int32, optional, tag = "14")]
    pub(super) data_location: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ValueInfo {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) r#type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TypeProto {
    #[prost(message, optional, tag = "1")]
    pub(super) tensor_type: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorType {
    #[prost(int32, tag = "1")]
    pub(super) elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) shape: Option<TensorShape>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorShape {
    #[prost(message, repeated, tag = "1")]
    pub(super) dim: Vec<Dimension>,
}

/// One of the two is set: a number, or a name that stands for the same number everywhere.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Dimension {
    #[prost(int64, optional, tag = "1")]
    pub(super) dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub(super) dim_param: Option<String>,
}

/// An axis of an input or output.
#[derive(Debug, Clone, Copy)]
pub(super) enum Axis {
    Fixed(usize),
    Named(&'static str),
}

impl ValueInfo {
    pub(super) fn tensor(name: &str, element: ElementType, axes: &[Axis]) -> Self {
        let dim = axes
            .iter()
            .map(|axis| match axis {
                Axis::Fixed(value) => Dimension {
                    dim_value: Some(dim(*value)),
                    dim_param: None,
                },
                Axis::Named(name) => Dimension {
                    dim_value: None,
                    dim_param: Some((*name).to_owned()),
                },
            })
            .collect();
        let tensor_type = Some(TensorType {
            elem_type: element as i32,
            shape: Some(TensorShape { dim }),
        });
        Self {
            name: name.to_owned(),
            r#type: Some(TypeProto { tensor_type }),
        }
    }
}

impl TensorProto {
    /// A small whole-number constant, kept inside the graph file.
    pub(super) fn constant(name: &str, dims: &[usize], values: &[i64]) -> Self {
        Self {
            name: name.to_owned(),
            data_type: ElementType::I64 as i32,
            dims: dims.iter().copied().map(dim).collect(),
            int64_data: values.to_vec(),
            ..Self::default()
        }
    }
}

impl Attribute {
    pub(super) fn int(name: &str, value: i64) -> Self {
        Self {
            name: name.to_owned(),
            i: Some(value),
            f: None,
            kind: 2,
        }
    }

    pub(super) fn size(name: &str, value: usize) -> Self {
        Self::int(name, dim(value))
    }

    pub(super) fn float(name: &str, value: f32) -> Self {
        Self {
            name: name.to_owned(),
            f: Some(value),
            i: None,
            kind: 1,
        }
    }
}

/// ONNX counts in i64.
pub(super) fn dim(value: usize) -> i64 {
    i64::try_from(value).expect("sizes of tensors in memory fit in 63 bits")
}
