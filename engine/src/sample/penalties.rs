//! Steps that change logits by what was said before. `of` finds a token's logit among those that are left.

use std::collections::BTreeMap;

use super::Sampling;

type Find<'a> = &'a dyn Fn(u32) -> Option<usize>;

/// Repeat, presence and frequency penalties over the last `repeat_last_n` tokens.
pub fn recent(s: &Sampling, history: &[u32], logits: &mut [f32], of: Find<'_>) {
    if s.repeat_penalty == 1.0 && s.presence_penalty == 0.0 && s.frequency_penalty == 0.0 {
        return;
    }
    let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
    for &t in &history[history.len().saturating_sub(s.repeat_last_n)..] {
        *counts.entry(t).or_default() += 1;
    }
    for (token, count) in counts {
        if let Some(x) = of(token).and_then(|at| logits.get_mut(at)) {
            //= F-MATH-152
            *x = if *x > 0.0 { *x / s.repeat_penalty } else { *x * s.repeat_penalty };
            *x -= s.presence_penalty + s.frequency_penalty * count as f32;
        }
    }
}

/// The tokens whose text holds one of these, ascending.
pub fn breakers<'t>(texts: &[String], vocabulary: impl Iterator<Item = &'t [u8]>) -> Vec<u32> {
    let holds = |token: &[u8]| texts.iter().any(|t| !t.is_empty() && token.windows(t.len()).any(|w| w == t.as_bytes()));
    vocabulary.enumerate().filter(|(_, token)| holds(token)).map(|(id, _)| id as u32).collect()
}

/// "Don't repeat yourself": a token that would make the end of the text repeat something longer than is allowed loses
/// `multiplier * base^(length - allowed)`, where length is what repeats already.
pub fn dry(s: &Sampling, breakers: &[u32], history: &[u32], logits: &mut [f32], of: Find<'_>) {
    if s.dry_multiplier == 0.0 {
        return;
    }
    let recent = &history[history.len().saturating_sub(s.dry_last_n)..];
    let reach = recent.iter().rev().position(|t| breakers.binary_search(t).is_ok()).unwrap_or(recent.len());
    let mut longest: BTreeMap<u32, usize> = BTreeMap::new();
    for (back, length) in repeats(recent).into_iter().enumerate().skip(1) {
        // `length` tokens that end `back` tokens before the end are the last tokens once more; this came next there.
        let next = recent[recent.len() - back];
        let length = length.min(reach);
        if length >= s.dry_allowed_length.max(1) && breakers.binary_search(&next).is_err() {
            let known = longest.entry(next).or_default();
            *known = length.max(*known);
        }
    }
    for (token, length) in longest {
        if let Some(x) = of(token).and_then(|at| logits.get_mut(at)) {
            let exponent = (length - s.dry_allowed_length) as f32;
            *x -= (s.dry_multiplier * s.dry_base.powf(exponent)).min(f32::MAX / 2.0);
        }
    }
}

/// For each distance back from the end: how many tokens that end there equal the last ones. The Z function of the
/// reversed text (Gusfield 1997), linear in its length.
fn repeats(text: &[u32]) -> Vec<usize> {
    let n = text.len();
    let at = |i: usize| text[n - 1 - i];
    let mut z = vec![0; n];
    let (mut left, mut right) = (0, 0);
    for i in 1..n {
        let mut len = if i < right { z[i - left].min(right - i) } else { 0 };
        while i + len < n && at(len) == at(i + len) {
            len += 1;
        }
        if i + len > right {
            (left, right) = (i, i + len);
        }
        z[i] = len;
    }
    z
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_agree_with_the_definition() {
        let texts: [&[u32]; 4] = [&[1, 2, 3, 3, 2, 3, 9, 1, 2, 3], &[5; 12], &[1], &[]];
        for text in texts {
            let slow: Vec<usize> = (0..text.len())
                .map(|back| {
                    let end = text.len() - back;
                    (0..end).take_while(|&k| back > 0 && text[end - 1 - k] == text[text.len() - 1 - k]).count()
                })
                .collect();
            assert_eq!(repeats(text), slow);
        }
    }
}
