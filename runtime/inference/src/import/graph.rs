//! The decoder as an ONNX graph: which operators, in which order, with which weights.
//!
//! ```text
//! input_ids ─ embedding ─┬─ norm ─ qkv ─ GroupQueryAttention ─ out ─┬─ norm ─ gate,up ─ SiLU ─ down ─┐
//!                        └────────────── + ─────────────────────────┴──────────────── + ─────────────┘
//!                                               (× layers; each + and the norm after it are one operator)
//! … ─ each row's last position ─ norm ─ output layer ─ logits
//! ```
//!
//! Nothing after the last layer's attention is needed for positions whose logits nobody reads, so
//! the last positions are gathered right there: a prefill then skips most of the last layer and
//! all other logits (629 MB for 16 prompts of 200 tokens). What callers may feed is in
//! [`crate::manifest`].

use std::io;

use super::ImportError;
use super::blob::Blob;
use super::gguf::{Gguf, Shape, block};
use super::onnx::{
    Attribute, Axis, ElementType, GraphProto, IR_VERSION, MICROSOFT, ModelProto, NodeProto, OPSET,
    OperatorSet, TensorProto, ValueInfo, dim,
};
use super::quantise::{self, BLOCK, ZERO_POINT};
use crate::manifest::Precision;

/// Activations are quantised to 8 bits too: 15 times the speed of level 0 at batch 1, for 1.4
/// points of agreement with fp32.
const ACCURACY_LEVEL: i64 = 4;

/// The hidden state on its way through the layers: what the residual stream holds, and what the
/// next norm must still add to it.
struct Stream {
    residual: String,
    pending: Option<String>,
}

struct Build<'a> {
    shape: &'a Shape,
    precision: Precision,
    graph: GraphProto,
    blob: &'a mut Blob,
}

/// Builds the graph, streaming weights from `gguf` into `blob`; `done` hears of each layer.
pub(super) fn build(
    gguf: &mut Gguf,
    shape: &Shape,
    precision: Precision,
    blob: &mut Blob,
    done: &mut dyn FnMut(usize),
) -> Result<ModelProto, ImportError> {
    let graph = GraphProto {
        name: "decoder".to_owned(),
        ..GraphProto::default()
    };
    let mut build = Build {
        shape,
        precision,
        graph,
        blob,
    };
    build.declare_io();
    build.positions()?;
    let (residual, head) = build.embedding(gguf)?;
    let mut stream = Stream {
        residual,
        pending: None,
    };
    for layer in 0..shape.layers {
        build.layer(gguf, layer, &mut stream)?;
        done(layer + 1);
    }
    build.norm(gguf, "output_norm.weight", "final", &mut stream)?;
    build.head("final", head);
    let set = |domain: &str, version| OperatorSet {
        domain: domain.to_owned(),
        version,
    };
    Ok(ModelProto {
        ir_version: IR_VERSION,
        producer_name: "colony".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(build.graph),
        opset_import: vec![set("", OPSET), set(MICROSOFT, 1)],
    })
}

impl Build<'_> {
    fn node(
        &mut self,
        domain: &str,
        op_type: &str,
        inputs: &[&str],
        outputs: &[&str],
        attribute: Vec<Attribute>,
    ) {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        // Outputs are unique in a graph, so they name the nodes too.
        self.graph.node.push(NodeProto {
            name: format!("{op_type}:{}", outputs[0]),
            input: owned(inputs),
            output: owned(outputs),
            op_type: op_type.to_owned(),
            domain: domain.to_owned(),
            attribute,
        });
    }

    fn initializer(&mut self, tensor: io::Result<TensorProto>) -> Result<(), ImportError> {
        self.graph
            .initializer
            .push(tensor.map_err(ImportError::write)?);
        Ok(())
    }

    fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Result<(), ImportError> {
        let tensor = self.blob.floats(name, dims, values);
        self.initializer(tensor)
    }

    /// Declares inputs and outputs.
    fn declare_io(&mut self) {
        use Axis::{Fixed, Named};
        let ids =
            |name, width| ValueInfo::tensor(name, ElementType::I64, &[Named("rows"), Named(width)]);
        self.graph.input.push(ids("input_ids", "new"));
        self.graph.input.push(ids("attention_mask", "total"));
        let logits = [Named("rows"), Fixed(self.shape.vocab)];
        self.graph
            .output
            .push(ValueInfo::tensor("logits", ElementType::F32, &logits));
        for layer in 0..self.shape.layers {
            for part in ["key", "value"] {
                let cache = |name: String, length| {
                    let (heads, width) = (self.shape.kv_heads, self.shape.head_dim);
                    let axes = [Named("rows"), Fixed(heads), Named(length), Fixed(width)];
                    ValueInfo::tensor(&name, ElementType::F32, &axes)
                };
                let past = cache(format!("past_key_values.{layer}.{part}"), "past");
                let present = cache(format!("present.{layer}.{part}"), "total");
                self.graph.input.push(past);
                self.graph.output.push(present);
            }
        }
    }

    /// From the mask: each row's valid length less one, the widest row, each row's last new
    /// position. And the rotary tables.
    fn positions(&mut self) -> Result<(), ImportError> {
        let constant = TensorProto::constant;
        self.graph.initializer.push(constant("axis_1", &[1], &[1]));
        self.graph.initializer.push(constant("one", &[], &[1]));
        self.node(
            "",
            "ReduceSum",
            &["attention_mask", "axis_1"],
            &["valid"],
            vec![Attribute::int("keepdims", 0)],
        );
        self.node("", "Sub", &["valid", "one"], &["valid_less_one"], vec![]);
        let to_i32 = || vec![Attribute::int("to", i64::from(ElementType::I32 as i32))];
        self.node("", "Cast", &["valid_less_one"], &["seqlens_k"], to_i32());
        self.width("attention_mask", "mask_width");
        self.node(
            "",
            "Cast",
            &["mask_width"],
            &["total_sequence_length"],
            to_i32(),
        );
        // A prefilled row's last token stands at its valid length less one; with a past, every
        // new position of the row is valid and the last one is the width less one. The smaller
        // of the two is right in both cases.
        self.width("input_ids", "new_width");
        self.node(
            "",
            "Sub",
            &["new_width", "one"],
            &["new_width_less_one"],
            vec![],
        );
        self.node(
            "",
            "Min",
            &["valid_less_one", "new_width_less_one"],
            &["last"],
            vec![],
        );
        self.node(
            "",
            "Unsqueeze",
            &["last", "axis_1"],
            &["last_index"],
            vec![],
        );
        let (cos, sin) = rotary_tables(self.shape);
        let dims = [self.shape.context_tokens_max, self.shape.head_dim / 2];
        self.floats("cos", &dims, &cos)?;
        self.floats("sin", &dims, &sin)
    }

    /// `to` = number of columns of the matrix `from`, as a scalar.
    fn width(&mut self, from: &str, to: &str) {
        let shape = format!("{from}.shape");
        self.node("", "Shape", &[from], &[&shape], vec![]);
        self.node(
            "",
            "Gather",
            &[&shape, "one"],
            &[to],
            vec![Attribute::int("axis", 0)],
        );
    }

    /// The embedding, and the name of the output layer's weights: where both are the same they are
    /// stored once, and each operator sees the bytes in the shape it wants.
    fn embedding(&mut self, gguf: &mut Gguf) -> Result<(String, &'static str), ImportError> {
        let (vocab, hidden) = (self.shape.vocab, self.shape.hidden);
        let table = gguf.weights("token_embd.weight")?;
        match self.precision {
            Precision::Fp32 => {
                self.floats("embedding", &[vocab, hidden], &table)?;
                drop(table);
                self.node(
                    "",
                    "Gather",
                    &["embedding", "input_ids"],
                    &["embedded"],
                    vec![],
                );
            }
            Precision::Int8 => {
                self.blocks("embedding", vocab, hidden, &table)?;
                drop(table);
                let per_row = hidden / BLOCK;
                let zero = vec![ZERO_POINT; vocab * per_row];
                let zero =
                    self.blob
                        .bytes("embedding.zero", ElementType::U8, &[vocab, per_row], &zero);
                self.initializer(zero)?;
                let mut flat = self.initializer_named("embedding.bytes").clone();
                flat.name = "embedding.rows".to_owned();
                flat.dims = vec![dim(vocab), dim(hidden)];
                self.graph.initializer.push(flat);
                let inputs = [
                    "embedding.rows",
                    "input_ids",
                    "embedding.scales",
                    "embedding.zero",
                ];
                self.node(
                    MICROSOFT,
                    "GatherBlockQuantized",
                    &inputs,
                    &["embedded"],
                    vec![
                        Attribute::int("bits", 8),
                        Attribute::size("block_size", BLOCK),
                        Attribute::int("gather_axis", 0),
                        Attribute::int("quantize_axis", 1),
                    ],
                );
            }
        }
        let head = if self.shape.tied {
            "embedding"
        } else {
            let weights = gguf.weights("output.weight")?;
            match self.precision {
                Precision::Fp32 => self.floats("output", &[vocab, hidden], &weights)?,
                Precision::Int8 => self.blocks("output", vocab, hidden, &weights)?,
            }
            "output"
        };
        Ok(("embedded".to_owned(), head))
    }

    /// One transformer block.
    fn layer(
        &mut self,
        gguf: &mut Gguf,
        layer: usize,
        stream: &mut Stream,
    ) -> Result<(), ImportError> {
        let Shape {
            hidden,
            ffn,
            heads,
            kv_heads,
            head_dim,
            layers,
            ..
        } = *self.shape;
        let value = |part: &str| format!("layer.{layer}.{part}");
        self.norm(
            gguf,
            &block(layer, "attn_norm"),
            &value("attention_in"),
            stream,
        )?;
        let mut fused = gguf.rotary_weights(&block(layer, "attn_q"), self.shape)?;
        fused.extend(gguf.rotary_weights(&block(layer, "attn_k"), self.shape)?);
        fused.extend(gguf.weights(&block(layer, "attn_v"))?);
        let rows = hidden + 2 * kv_heads * head_dim;
        self.linear(
            &value("attention_in"),
            &value("qkv"),
            [rows, hidden],
            &fused,
        )?;
        drop(fused);
        let past = |part| format!("past_key_values.{layer}.{part}");
        let present = |part| format!("present.{layer}.{part}");
        self.node(
            MICROSOFT,
            "GroupQueryAttention",
            &[
                &value("qkv"),
                "",
                "",
                &past("key"),
                &past("value"),
                "seqlens_k",
                "total_sequence_length",
                "cos",
                "sin",
            ],
            &[&value("attended"), &present("key"), &present("value")],
            vec![
                Attribute::size("num_heads", heads),
                Attribute::size("kv_num_heads", kv_heads),
                Attribute::float("scale", (head_dim as f32).sqrt().recip()),
                Attribute::int("do_rotary", 1),
                Attribute::int("rotary_interleaved", 0),
                Attribute::int("local_window_size", -1),
            ],
        );
        let mut attended = value("attended");
        if layer + 1 == layers {
            attended = self.last_positions(&attended);
            stream.residual = self.last_positions(&stream.residual);
        }
        let output = gguf.weights(&block(layer, "attn_output"))?;
        self.linear(
            &attended,
            &value("attention_out"),
            [hidden, hidden],
            &output,
        )?;
        stream.pending = Some(value("attention_out"));

        self.norm(gguf, &block(layer, "ffn_norm"), &value("ffn_in"), stream)?;
        let gate = gguf.weights(&block(layer, "ffn_gate"))?;
        self.linear(&value("ffn_in"), &value("gate"), [ffn, hidden], &gate)?;
        let up = gguf.weights(&block(layer, "ffn_up"))?;
        self.linear(&value("ffn_in"), &value("up"), [ffn, hidden], &up)?;
        self.node("", "Sigmoid", &[&value("gate")], &[&value("open")], vec![]);
        self.node(
            "",
            "Mul",
            &[&value("gate"), &value("open")],
            &[&value("silu")],
            vec![],
        );
        self.node(
            "",
            "Mul",
            &[&value("silu"), &value("up")],
            &[&value("gated")],
            vec![],
        );
        let down = gguf.weights(&block(layer, "ffn_down"))?;
        self.linear(&value("gated"), &value("ffn_out"), [hidden, ffn], &down)?;
        stream.pending = Some(value("ffn_out"));
        Ok(())
    }

    /// `output` = each row's last position of `input`: [rows, new, width] becomes [rows, width].
    fn last_positions(&mut self, input: &str) -> String {
        let output = format!("{input}.last");
        let batched = vec![Attribute::int("batch_dims", 1)];
        self.node("", "GatherND", &[input, "last_index"], &[&output], batched);
        output
    }

    /// Adds what is pending to the stream and writes the normed sum to `output`.
    fn norm(
        &mut self,
        gguf: &mut Gguf,
        weight: &str,
        output: &str,
        stream: &mut Stream,
    ) -> Result<(), ImportError> {
        let values = gguf.weights(weight)?;
        self.floats(weight, &[values.len()], &values)?;
        let mut attributes = vec![Attribute::float("epsilon", self.shape.norm_epsilon)];
        let residual = stream.residual.clone();
        match stream.pending.take() {
            None => {
                attributes.push(Attribute::int("axis", -1));
                attributes.push(Attribute::int("stash_type", 1));
                let op = "SimplifiedLayerNormalization";
                self.node("", op, &[&residual, weight], &[output], attributes);
            }
            Some(pending) => {
                let sum = format!("{output}.sum");
                let op = "SkipSimplifiedLayerNormalization";
                let inputs = [residual.as_str(), &pending, weight];
                self.node(MICROSOFT, op, &inputs, &[output, "", "", &sum], attributes);
                stream.residual = sum;
            }
        }
        Ok(())
    }

    /// `output` = `input` × weightsᵀ, with `weights` as [rows, columns].
    fn linear(
        &mut self,
        input: &str,
        output: &str,
        [rows, columns]: [usize; 2],
        weights: &[f32],
    ) -> Result<(), ImportError> {
        let name = format!("{output}.weight");
        match self.precision {
            Precision::Fp32 => {
                self.floats(&name, &[columns, rows], &transposed(weights, columns))?;
                self.node("", "MatMul", &[input, &name], &[output], vec![]);
            }
            Precision::Int8 => {
                self.blocks(&name, rows, columns, weights)?;
                self.multiply_blocks(input, output, &name, [rows, columns]);
            }
        }
        Ok(())
    }

    /// The output layer, from `input` to `logits`.
    fn head(&mut self, input: &str, weight: &str) {
        match self.precision {
            Precision::Fp32 => {
                let transposed = vec![Attribute::int("transB", 1)];
                self.node("", "Gemm", &[input, weight], &["logits"], transposed);
            }
            Precision::Int8 => {
                let dims = [self.shape.vocab, self.shape.hidden];
                self.multiply_blocks(input, "logits", weight, dims);
            }
        }
    }

    /// Stores a matrix as 8-bit blocks: `{name}.bytes` and `{name}.scales`.
    fn blocks(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
        weights: &[f32],
    ) -> Result<(), ImportError> {
        let blocks = quantise::quantise(weights);
        let per_row = columns / BLOCK;
        let bytes = self.blob.bytes(
            &format!("{name}.bytes"),
            ElementType::U8,
            &[rows, per_row, BLOCK],
            &blocks.bytes,
        );
        self.initializer(bytes)?;
        self.floats(&format!("{name}.scales"), &[rows, per_row], &blocks.scales)
    }

    fn multiply_blocks(
        &mut self,
        input: &str,
        output: &str,
        weight: &str,
        [rows, columns]: [usize; 2],
    ) {
        let (bytes, scales) = (format!("{weight}.bytes"), format!("{weight}.scales"));
        self.node(
            MICROSOFT,
            "MatMulNBits",
            &[input, &bytes, &scales],
            &[output],
            vec![
                Attribute::size("K", columns),
                Attribute::size("N", rows),
                Attribute::int("bits", 8),
                Attribute::size("block_size", BLOCK),
                Attribute::int("accuracy_level", ACCURACY_LEVEL),
            ],
        );
    }

    fn initializer_named(&self, name: &str) -> &TensorProto {
        let mut initializers = self.graph.initializer.iter();
        initializers
            .find(|tensor| tensor.name == name)
            .expect("written a moment ago")
    }
}

/// Cosines and sines of position × frequency, [context, head width / 2] each. In f64: an f32
/// product of position 8,000 and a frequency is off by up to 2e-4 radians.
#[expect(clippy::cast_possible_truncation, reason = "cosines fit in f32")]
fn rotary_tables(shape: &Shape) -> (Vec<f32>, Vec<f32>) {
    let half = shape.head_dim / 2;
    let frequency = |pair: usize| f64::from(shape.rope_theta).powf(-(pair as f64) / half as f64);
    let frequencies: Vec<f64> = (0..half).map(frequency).collect();
    let angles = (0..shape.context_tokens_max)
        .flat_map(|position| frequencies.iter().map(move |each| position as f64 * each));
    angles
        .map(|angle| (angle.cos() as f32, angle.sin() as f32))
        .unzip()
}

fn transposed(weights: &[f32], columns: usize) -> Vec<f32> {
    let column = |column| weights.iter().skip(column).step_by(columns).copied();
    (0..columns).flat_map(column).collect()
}
