"""The operators: for each one its fake kernels, its autograd Functions and its public function."""
