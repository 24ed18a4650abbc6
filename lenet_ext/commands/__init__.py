"""The commands of `lenet-ext`, one module each. Needs the extra [cli]."""
