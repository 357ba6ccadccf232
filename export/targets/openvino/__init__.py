"""The target `openvino`: OpenVINO's intermediate representation (IR)."""
