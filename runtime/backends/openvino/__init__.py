"""OpenVINO on the CPU: a stream is an infer request, whose states are OpenVINO's own."""
