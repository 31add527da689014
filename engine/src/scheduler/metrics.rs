//! What a scheduler counts while it works. Names and forms of exposition are the business of whoever shows them.

/// Upper bounds of buckets for the time to the first token, in seconds: vLLM's, which dashboards know.
pub const TTFT_BOUNDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
/// For the time between tokens.
pub const INTER_TOKEN_BOUNDS: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
/// For whole requests and for waiting.
pub const REQUEST_BOUNDS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];

/// Observations, counted by size.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Upper bounds, ascending; one more bucket is above the last.
    pub bounds: &'static [f64],
    /// Observations of each bucket, not accumulated: one more than there are bounds.
    pub counts: Vec<u64>,
    /// Sum of the observations.
    pub sum: f64,
}

impl Histogram {
    /// Without observations.
    pub fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Counts one.
    pub fn observe(&mut self, x: f64) {
        self.counts[self.bounds.partition_point(|&bound| bound < x)] += 1;
        self.sum += x;
    }

    /// Observations so far.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// A moment's state and everything counted so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Requests in the queue.
    pub waiting: usize,
    /// Requests that take part in steps.
    pub running: usize,
    /// Blocks of the KV cache that running requests hold.
    pub kv_blocks_used: usize,
    /// Blocks that no running request holds and that are kept because a prompt may begin like them.
    pub kv_blocks_cached: usize,
    /// Blocks there can be.
    pub kv_blocks_total: usize,
    /// Bytes of one block.
    pub kv_block_bytes: u64,
    /// Steps of the runner.
    pub steps: u64,
    /// Steps with rows of more than one request.
    pub shared_steps: u64,
    /// Rows of all steps.
    pub rows: u64,
    /// Tokens of prompts that left the queue.
    pub prompt_tokens: u64,
    /// Those that were not computed again.
    pub cached_tokens: u64,
    /// Tokens chosen, ends of sequence not among them.
    pub generated_tokens: u64,
    /// Blocks of the prefix cache that were given up for others.
    pub evictions: u64,
    /// Requests that ended, by how.
    pub ended: Ended,
    /// Submission to first token, in seconds.
    pub time_to_first_token: Histogram,
    /// Token to token, in seconds.
    pub inter_token: Histogram,
    /// Submission to the end, of requests that are done.
    pub request_duration: Histogram,
    /// Submission to leaving the queue.
    pub queue_time: Histogram,
}

/// Requests that ended, by how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// An end of sequence or a stop sequence.
    pub stop: u64,
    /// The token limit, or a full context.
    pub length: u64,
    /// Nobody wanted the answer any more.
    pub cancelled: u64,
    /// The deadline passed.
    pub timed_out: u64,
    /// An error, or the server stopped.
    pub failed: u64,
    /// Not taken: the queue was full, or too little memory for it, or a drain was under way.
    pub refused: u64,
}

impl Default for Snapshot {
    fn default() -> Snapshot {
        Snapshot {
            waiting: 0,
            running: 0,
            kv_blocks_used: 0,
            kv_blocks_cached: 0,
            kv_blocks_total: 0,
            kv_block_bytes: 0,
            steps: 0,
            shared_steps: 0,
            rows: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            generated_tokens: 0,
            evictions: 0,
            ended: Ended::default(),
            time_to_first_token: Histogram::new(TTFT_BOUNDS),
            inter_token: Histogram::new(INTER_TOKEN_BOUNDS),
            request_duration: Histogram::new(REQUEST_BOUNDS),
            queue_time: Histogram::new(REQUEST_BOUNDS),
        }
    }
}
