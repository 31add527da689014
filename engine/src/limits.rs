//! Every limit on untrusted input, in one table. A limit that is met is an error that names it, never an abort.

use std::time::Duration;

/// Bytes of the config file.
pub const CONFIG_BYTES_MAX: usize = 64 << 10;
/// Bytes of what `apr tune` found out.
pub const TUNE_BYTES_MAX: usize = 1 << 20;
/// Bytes of one GGUF string (keys have their own limit).
pub const STRING_BYTES_MAX: u64 = 16 << 20;
/// Bytes of a metadata key.
pub const KEY_BYTES_MAX: u64 = 1 << 16;
/// Bytes of a tensor name.
pub const TENSOR_NAME_BYTES_MAX: u64 = 256;
/// Bytes of a model file before its tensor data. Real ones stay under 30 MB.
pub const HEADER_BYTES_MAX: u64 = 128 << 20;
/// Alignment of tensor data that a file may ask for.
pub const ALIGNMENT_MAX: u64 = 1 << 20;
/// Metadata entries in a file.
pub const METADATA_ENTRIES_MAX: u64 = 1 << 16;
/// Metadata values in a file, each element of an array counted: what bounds the memory that a header can claim.
pub const METADATA_VALUES_MAX: u64 = 1 << 22;
/// Depth of nested metadata arrays.
pub const ARRAY_DEPTH_MAX: usize = 4;
/// Bytes of a JSON file beside a model. The largest real one, a tokenizer of 256 thousand words, has 35 MB.
pub const JSON_BYTES_MAX: u64 = 64 << 20;
/// Bytes of the header of a SafeTensors file, as the reference has it.
pub const SAFETENSORS_HEADER_BYTES_MAX: u64 = 100_000_000;
/// Dimensions of a tensor in a SafeTensors file; one with more than a weight has is set aside.
pub const SAFETENSORS_DIMS_MAX: usize = 64;
/// How deep below a folder its model may lie: `models--NAME/snapshots/REVISION` is 2.
pub const FOLDER_DEPTH_MAX: usize = 3;
/// Entries of folders that are looked at to find a model.
pub const FOLDER_ENTRIES_MAX: usize = 1 << 14;
/// Tensors in a model, over all shards.
pub const TENSORS_MAX: u64 = 1 << 17;
/// Files a split model may have.
pub const SHARDS_MAX: u64 = 1 << 10;
/// Dimensions of a tensor.
pub const TENSOR_DIMS_MAX: u32 = 4;
/// Entries of a vocabulary.
pub const VOCAB_MAX: usize = 1 << 21;
/// Merge rules of a byte-pair encoder.
pub const MERGES_MAX: usize = 1 << 22;
/// Bytes of one vocabulary entry.
pub const TOKEN_BYTES_MAX: usize = 1 << 16;
/// Bytes of a token of a SentencePiece vocabulary. Merging looks at that many in each step; real ones stay under 100.
pub const PIECE_BYTES_MAX: usize = 1 << 10;
/// Bytes of one word of a text, as a tokenizer cuts it. A longer one is cut again: merging takes fifty times its size.
pub const WORD_BYTES_MAX: usize = 1 << 16;
/// Bytes of a control or user-defined token: these are looked for at every position of a text.
pub const CONTROL_TOKEN_BYTES_MAX: usize = 1 << 10;
/// Transformer layers.
pub const LAYERS_MAX: usize = 512;
/// Width of a hidden state, of a head times heads, of a feed-forward layer.
pub const WIDTH_MAX: usize = 1 << 20;
/// Attention heads of one layer.
pub const HEADS_MAX: usize = 1 << 12;
/// Positions a model may claim.
pub const CONTEXT_MAX: usize = 1 << 24;
/// Bytes of a chat template.
pub const TEMPLATE_BYTES_MAX: usize = 1 << 20;
/// Instructions a chat template may execute.
pub const TEMPLATE_FUEL: u64 = 2_000_000;
/// Depth of a template's syntax and calls.
pub const TEMPLATE_DEPTH_MAX: usize = 64;
/// Words and signs of one tag of a template.
pub const TEMPLATE_TAG_TOKENS_MAX: usize = 256;
/// Depth of a value inside a template, tools included.
pub const TEMPLATE_VALUE_DEPTH_MAX: usize = 128;
/// Bytes a template may render.
pub const TEMPLATE_OUTPUT_MAX: usize = 64 << 20;
/// Bytes of a prompt.
pub const PROMPT_BYTES_MAX: usize = 64 << 20;
/// Tools of a request.
pub const TOOLS_MAX: usize = 128;
/// Bytes of a tool's name.
pub const TOOL_NAME_BYTES_MAX: usize = 64;
/// Depth of a JSON schema and of what its references lead to.
pub const SCHEMA_DEPTH_MAX: usize = 32;
/// Items or letters that a JSON schema may count, and values and properties that it may list in one place.
pub const SCHEMA_COUNT_MAX: u64 = 1 << 10;
/// Bytes and rules in the sequences of a grammar. A few bytes of memory each.
pub const GRAMMAR_ELEMENTS_MAX: usize = 1 << 17;
/// Open rules in a grammar at which no further value is nested: 20 to 30 deep.
pub const GRAMMAR_STACK_MAX: usize = 64;
/// Places in a grammar that are remembered, a kilobyte each.
pub const GRAMMAR_STATES_MAX: usize = 1 << 12;
/// Places for which the tokens that may follow are remembered, a bit for each token of the vocabulary.
pub const GRAMMAR_MASKS_MAX: usize = 1 << 7;
/// Stop sequences of a request.
pub const STOPS_MAX: usize = 64;
/// Bytes of one stop sequence.
pub const STOP_BYTES_MAX: usize = 4096;
/// Log-probabilities that a request may ask for beside each token.
pub const LOGPROBS_MAX: usize = 20;
/// Requests that a scheduler runs together.
pub const RUNNING_MAX: usize = 1 << 10;
/// Requests that a scheduler keeps waiting.
pub const QUEUE_MAX: usize = 1 << 16;
/// Steps that a scheduler remembers.
pub const STEP_LOG: usize = 1 << 10;
/// Worker threads of a backend.
pub const THREADS_MAX: usize = 1 << 10;
/// Characters of a name from outside that a message shows.
pub const QUOTED_CHARS_MAX: usize = 80;
/// Characters of a message.
pub const MESSAGE_CHARS_MAX: usize = 1000;
/// Values of a tensor that a trace shows.
pub const TRACE_VALUES: usize = 16;
/// Token ids in a row that a trace shows.
pub const TRACE_IDS: usize = 1 << 10;
/// Most likely tokens that a trace shows of logits.
pub const TRACE_TOP: usize = 5;
/// Bytes of a trace that is read again.
pub const TRACE_BYTES_MAX: u64 = 1 << 30;
/// Bytes of the body of an HTTP request.
pub const BODY_BYTES_MAX: usize = 8 << 20;
/// Bytes of the bodies of all requests that are not yet understood, together.
pub const BODIES_BYTES_MAX: usize = 128 << 20;
/// Requests that are understood (parsed, laid out, encoded) at the same time.
pub const UNDERSTOOD_AT_ONCE: usize = 4;
/// Traced requests that wait for the one that runs.
pub const TRACED_WAITING_MAX: usize = 4;
/// Bytes of the head of an HTTP request: its first line and its headers.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Headers of an HTTP request.
pub const HEADERS_MAX: usize = 100;
/// Connections at the same time; more wait to be accepted. Most systems give a process 1024 open files.
pub const CONNECTIONS_MAX: usize = 960;
/// Time for the head of a request, which a connection that is kept open for the next one has too.
pub const HEAD_TIME: Duration = Duration::from_secs(20);
/// Time for the body of a request.
pub const BODY_TIME: Duration = Duration::from_secs(30);
/// How long a peer may take none of the bytes that are ready for it.
pub const STALL_TIME: Duration = Duration::from_secs(30);
/// How long running requests may take to end once the server is told to stop.
pub const DRAIN_TIME: Duration = Duration::from_secs(30);
/// Silence in a stream of events before a comment says that the server is alive.
pub const PING_TIME: Duration = Duration::from_secs(10);
/// Spans that wait for a collector; more are lost.
pub const OTLP_QUEUE: usize = 1 << 12;
/// Spans that a collector gets at once.
pub const OTLP_BATCH: usize = 512;
/// How long a collector may take for each step of taking them.
pub const OTLP_TIME: Duration = Duration::from_secs(2);
/// Prompts of one request.
pub const PROMPTS_MAX: usize = 128;
/// Answers to one prompt (`n`), and answers of one request in all.
pub const CHOICES_MAX: usize = 128;
/// Alternatives that are told beside each token (`top_logprobs`).
pub const TOP_LOGPROBS_MAX: usize = 20;
/// How many times as much a compressed file may become. LZ4 itself reaches 255; weights never come near it.
pub const COMPRESSION_RATIO_MAX: u64 = 256;
/// Bytes that a Zstandard frame may look back.
pub const COMPRESSION_WINDOW_MAX: u64 = 128 << 20;
/// Bytes of what a user calls a model, and of the path of a file inside a repository.
pub const MODEL_NAME_BYTES_MAX: usize = 1 << 10;
/// Warnings that are kept for the object of `--json`.
pub const WARNINGS_KEPT_MAX: usize = 1000;
/// Bytes of a file that is downloaded.
pub const DOWNLOAD_BYTES_MAX: u64 = 1 << 40;
/// Bytes of what a hub says of a repository, and of what another program's cache says of a model.
pub const HUB_REPLY_BYTES_MAX: u64 = 32 << 20;
/// Files of a repository.
pub const HUB_FILES_MAX: usize = 1 << 16;
/// How often one request is sent elsewhere.
pub const REDIRECTS_MAX: usize = 10;
/// How often a download fails without a byte of progress between.
pub const RETRIES_MAX: u32 = 5;
/// How long a server may ask a download to wait.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// Time for a connection to a server.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);
