//! Steps that drop candidates. Each keeps at least one; probabilities are those of the candidates still there.

use super::Candidate;

/// Probabilities of candidates that are sorted, best first.
pub fn softmax(candidates: &[Candidate]) -> Vec<f64> {
    let max = candidates.first().map_or(0.0, |c| c.1);
    let e: Vec<f64> = candidates.iter().map(|c| (c.1 - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|x| x / sum).collect()
}

/// The most likely whose probabilities sum up to p.
//= F-MATH-151
pub fn top_p(c: &mut Vec<Candidate>, p: f32) {
    if p < 1.0 {
        let mut sum = 0.0;
        let last = softmax(c).iter().position(|x| {
            sum += x;
            sum >= f64::from(p)
        });
        c.truncate(last.map_or(c.len(), |n| n + 1));
    }
}

/// Those at least `p` times as likely as the best.
pub fn min_p(c: &mut Vec<Candidate>, p: f32) {
    if p > 0.0 {
        let floor = c.first().map_or(0.0, |best| best.1) + f64::from(p).ln();
        let keep = c.iter().take_while(|c| c.1 >= floor).count();
        c.truncate(keep.max(1));
    }
}

/// Those whose surprise is nearest to the entropy, up to probability p.
pub fn typical(c: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 {
        return;
    }
    let probability = softmax(c);
    let surprise = |i: usize| if probability[i] > 0.0 { -probability[i].ln() } else { f64::INFINITY };
    let entropy: f64 =
        (0..c.len()).map(|i| if probability[i] > 0.0 { probability[i] * surprise(i) } else { 0.0 }).sum();
    let mut order: Vec<usize> = (0..c.len()).collect();
    order.sort_by(|&a, &b| (surprise(a) - entropy).abs().total_cmp(&(surprise(b) - entropy).abs()).then(a.cmp(&b)));
    let mut sum = 0.0;
    let last = order.iter().position(|&i| {
        sum += probability[i];
        sum > f64::from(p)
    });
    order.truncate(last.map_or(order.len(), |n| n + 1));
    order.sort_unstable();
    *c = order.into_iter().map(|i| c[i]).collect();
}

/// Drops all but the least likely of the candidates above the threshold, if `roll` says so and there are two.
pub fn xtc(c: &mut Vec<Candidate>, probability: f32, threshold: f32, roll: f64) {
    if probability <= 0.0 || threshold > 0.5 || c.len() < 2 || roll >= f64::from(probability) {
        return;
    }
    let above = softmax(c).iter().take_while(|&&p| p >= f64::from(threshold)).count();
    if above >= 2 {
        c.drain(..above - 1);
    }
}
