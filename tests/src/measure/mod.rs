//! What the programs in `examples` measure with: a cluster of its own under a steady, known load, on which something is then broken.
//!
//! Read in this order: [`scene`] (services, pods and people, from start to verdict), [`stage`] (what they tell each other), [`speakers`] (who
//! sends), [`listeners`] (who receives, comes back and compares) and [`spread`] (percentiles). Figures are only reported; what breaks a
//! promise of content is a finding, and a program that has one fails.

pub mod listeners;
pub mod scene;
pub mod speakers;
pub mod spread;
pub mod stage;
