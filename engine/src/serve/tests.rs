//! Doors and shapes that need no model; what needs one is watched from outside, by the suite.
