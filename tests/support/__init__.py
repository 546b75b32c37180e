"""What the tests stand on: throwaway servers, a bad network, and waiting without sleeping."""
