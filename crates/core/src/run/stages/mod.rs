//! What a run is at: one stage, one file. Each function moves the run on if it can, and says whether it did. Pure.

mod abandoning;
mod awaiting_usable;
mod cutting;
mod declaring;
mod listening;
mod pausing;
mod preparing;
mod releasing;
mod suspending;
