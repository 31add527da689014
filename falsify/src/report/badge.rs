//! `badge.svg`: the score in one line, for the head of the README.

use super::{GATE_POINTS, Score};

/// Width of a character of Verdana at 11 px, on average; `textLength` makes it exact.
const CHAR_PX: usize = 7;
const PAD_PX: usize = 7;

/// The picture.
pub fn render(score: &Score) -> String {
    let (left, right) = ("falsify", words(score));
    let width = |text: &str| text.chars().count() * CHAR_PX;
    let (split, total) = (width(left) + 2 * PAD_PX, width(left) + width(&right) + 4 * PAD_PX);
    let colour = match score {
        s if s.refuted > 0 => "#b3261e",
        s if s.standing() >= GATE_POINTS => "#1a7f37",
        _ => "#0b62a8",
    };
    let text = |x: usize, text: &str| {
        format!(
            "<text x=\"{x}\" y=\"14\" textLength=\"{}\" lengthAdjust=\"spacingAndGlyphs\">{text}</text>",
            width(text)
        )
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{total}\" height=\"20\" role=\"img\" aria-label=\"{left}: {right}\">\n\
         <title>{left}: {right}</title>\n\
         <clipPath id=\"r\"><rect width=\"{total}\" height=\"20\" rx=\"3\"/></clipPath>\n\
         <g clip-path=\"url(#r)\"><path fill=\"#3d444d\" d=\"M0 0h{split}v20H0z\"/><path fill=\"{colour}\" d=\"M{split} 0h{}v20H{split}z\"/></g>\n\
         <g fill=\"#fff\" font-family=\"Verdana,DejaVu Sans,sans-serif\" font-size=\"11\">{}{}</g>\n\
         </svg>\n",
        total - split,
        text(PAD_PX, left),
        text(split + PAD_PX, &right)
    )
}

/// `75 of 300 survive, 75 proven`.
pub fn words(score: &Score) -> String {
    let refuted = if score.refuted > 0 { format!(", {} refuted", score.refuted) } else { String::new() };
    format!("{} of 300 survive, {} proven{refuted}", score.standing(), score.proven)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_badge_says_the_score_and_shows_a_refutation() {
        let mut score = Score { survived: 70, by_ruling: 5, not_attempted: 225, proven: 74, ..Score::default() };
        assert!(render(&score).contains("75 of 300 survive, 74 proven<"));
        score.refuted = 1;
        assert!(render(&score).contains(", 1 refuted<") && render(&score).contains("#b3261e"));
    }
}
