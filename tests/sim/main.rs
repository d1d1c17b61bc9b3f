//! Long runs of the simulation: `cargo test --release --test soloist-sim -- --seeds 1000000`.

#[path = "../it/simulation/lab/mod.rs"]
#[cfg(test)]
mod lab;
#[cfg(test)]
mod long;

fn main() -> std::process::ExitCode {
    #[cfg(test)]
    return long::main();
    #[cfg(not(test))]
    std::process::ExitCode::SUCCESS
}
