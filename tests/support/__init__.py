"""What tests share: gateways, backends, programs, samples."""
