// Ringway
