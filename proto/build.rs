fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure().compile_protos(&["proto/millrace/v1/master.proto"], &["proto"])?;
    Ok(())
}
